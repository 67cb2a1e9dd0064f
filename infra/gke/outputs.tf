output "credentials" {
  description = "Points kubectl at the cluster."
  value       = "gcloud container clusters get-credentials ${google_container_cluster.cluster.name} --region ${var.region} --project ${var.project} --dns-endpoint"
}

output "bucket" {
  description = "For train_data, eval_data and output_dir."
  value       = "gs://${google_storage_bucket.files.name}"
}

output "registry" {
  description = "For make push REGISTRY=..."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
}

output "service_accounts" {
  description = "Accounts that the steps act as on Vertex AI: training, publishing."
  value       = { for name in keys(local.step_accounts) : name => google_service_account.bucket[name].email }
}

output "annotate" {
  description = "Commands that bind the accounts of infra/kubernetes/accounts.yaml to these."
  value = join("\n", [
    for name in keys(local.step_accounts) :
    "kubectl annotate serviceaccount yt8m-${name} --overwrite --namespace ${var.namespace} iam.gke.io/gcp-service-account=${google_service_account.bucket[name].email}"
  ])
}

output "dataflow_service_account" {
  description = "For --service_account_email of DataflowRunner; empty without dataflow = true."
  value       = var.dataflow ? google_service_account.bucket["dataflow"].email : ""
}
