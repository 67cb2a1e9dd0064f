# The machines: fetch images, write logs and metrics.
resource "google_service_account" "nodes" {
  account_id   = "${var.name}-nodes"
  display_name = "Nodes of the cluster ${var.name}"

  depends_on = [google_project_service.needed]
}

resource "google_project_iam_member" "nodes" {
  project = var.project
  role    = "roles/container.defaultNodeServiceAccount"
  member  = google_service_account.nodes.member
}

# The steps of a run all act as the account that the run was started with. Both accounts read the
# whole bucket; neither can change the training data, and only the publishing account can write
# published/.
locals {
  output = trim(var.output_folder, "/")

  step_accounts = {
    training = {
      display_name = "Steps of runs that must not publish"
      folders = [
        "${local.output}/train/", "${local.output}/runs/", "${local.output}/data/", "root/", "tmp/"
      ]
    }
    publishing = {
      display_name = "Steps of runs that may publish"
      folders      = ["${local.output}/", "root/", "tmp/"]
    }
  }

  bucket_accounts = merge(local.step_accounts, var.dataflow ? {
    dataflow = {
      display_name = "Dataflow workers of the data validation"
      folders      = ["${local.output}/runs/", "tmp/"]
    }
  } : {})
}

resource "google_service_account" "bucket" {
  for_each = local.bucket_accounts

  account_id   = "${var.name}-${each.key}"
  display_name = each.value.display_name

  depends_on = [google_project_service.needed]
}

resource "google_storage_bucket_iam_member" "read" {
  for_each = {
    for pair in setproduct(
      keys(local.bucket_accounts),
      ["roles/storage.objectViewer", "roles/storage.legacyBucketReader"],
    ) : join("-", pair) => { account = pair[0], role = pair[1] }
  }

  bucket = google_storage_bucket.files.name
  role   = each.value.role
  member = google_service_account.bucket[each.value.account].member
}

resource "google_storage_bucket_iam_member" "write" {
  for_each = local.bucket_accounts

  bucket = google_storage_bucket.files.name
  role   = "roles/storage.objectUser"
  member = google_service_account.bucket[each.key].member

  condition {
    title = "folders-of-the-account"
    expression = join(" || ", [
      for folder in each.value.folders :
      "resource.name.startsWith('projects/_/buckets/${google_storage_bucket.files.name}/objects/${folder}')"
    ])
  }
}

resource "google_project_iam_member" "steps_on_vertex" {
  for_each = local.step_accounts

  project = var.project
  role    = "roles/aiplatform.user"
  member  = google_service_account.bucket[each.key].member
}

resource "google_artifact_registry_repository_iam_member" "pull" {
  for_each = merge(
    { nodes = google_service_account.nodes.member },
    { for name, account in google_service_account.bucket : name => account.member },
  )

  repository = google_artifact_registry_repository.images.name
  location   = google_artifact_registry_repository.images.location
  role       = "roles/artifactregistry.reader"
  member     = each.value
}

# On the cluster the Kubernetes accounts of infra/kubernetes/accounts.yaml act as these: Workload
# Identity, no keys.
resource "google_service_account_iam_member" "workload_identity" {
  for_each = local.step_accounts

  service_account_id = google_service_account.bucket[each.key].name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.project}.svc.id.goog[${var.namespace}/yt8m-${each.key}]"

  depends_on = [google_container_cluster.cluster] # which creates the identity pool
}

# Dataflow: the steps start jobs, whose workers act as the account for them.
resource "google_project_iam_member" "dataflow_worker" {
  for_each = var.dataflow ? toset(["dataflow"]) : toset([])

  project = var.project
  role    = "roles/dataflow.worker"
  member  = google_service_account.bucket[each.key].member
}

resource "google_project_iam_member" "dataflow_developer" {
  for_each = var.dataflow ? local.step_accounts : {}

  project = var.project
  role    = "roles/dataflow.developer"
  member  = google_service_account.bucket[each.key].member
}

resource "google_service_account_iam_member" "act_as_dataflow" {
  for_each = var.dataflow ? local.step_accounts : {}

  service_account_id = google_service_account.bucket["dataflow"].name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.bucket[each.key].member
}
