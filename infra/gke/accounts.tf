# What the machines may do: fetch images, write logs and metrics.
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

resource "google_artifact_registry_repository_iam_member" "nodes_pull" {
  repository = google_artifact_registry_repository.images.name
  location   = google_artifact_registry_repository.images.location
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.nodes.member
}

# What the steps may do: read and write the bucket. On Vertex AI they run as this account.
resource "google_service_account" "steps" {
  account_id   = "${var.name}-steps"
  display_name = "Steps of the pipeline"

  depends_on = [google_project_service.needed]
}

resource "google_storage_bucket_iam_member" "steps" {
  for_each = toset(["roles/storage.objectUser", "roles/storage.legacyBucketReader"])

  bucket = google_storage_bucket.files.name
  role   = each.key
  member = google_service_account.steps.member
}

resource "google_project_iam_member" "steps_on_vertex" {
  project = var.project
  role    = "roles/aiplatform.user"
  member  = google_service_account.steps.member
}

resource "google_artifact_registry_repository_iam_member" "steps_pull" {
  repository = google_artifact_registry_repository.images.name
  location   = google_artifact_registry_repository.images.location
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.steps.member
}

# On the cluster a step's Kubernetes account stands for that one: workload identity, no keys.
resource "google_service_account_iam_member" "workload_identity" {
  service_account_id = google_service_account.steps.name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.project}.svc.id.goog[${var.namespace}/${var.kubernetes_service_account}]"

  depends_on = [google_container_cluster.cluster] # which makes the pool of identities
}
