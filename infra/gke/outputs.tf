output "credentials" {
  description = "Points kubectl at the cluster."
  value       = "gcloud container clusters get-credentials ${google_container_cluster.cluster.name} --region ${var.region} --project ${var.project}"
}

output "bucket" {
  description = "For train_data, eval_data and output_dir."
  value       = "gs://${google_storage_bucket.files.name}"
}

output "registry" {
  description = "For make push REGISTRY=..."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
}

output "service_account" {
  description = "As which the steps run: by workload identity on the cluster, by name on Vertex AI."
  value       = google_service_account.steps.email
}

output "annotate" {
  description = "Binds the steps' Kubernetes account to it, once Kubeflow Pipelines is installed."
  value       = "kubectl annotate serviceaccount ${var.kubernetes_service_account} --namespace ${var.namespace} iam.gke.io/gcp-service-account=${google_service_account.steps.email}"
}
