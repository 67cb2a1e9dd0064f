variable "project" {
  description = "Google Cloud project to make everything in."
  type        = string
}

variable "region" {
  description = "Region of the cluster, the bucket and the images; one that has the GPUs."
  type        = string
  default     = "us-central1"
}

variable "zones" {
  description = "Zones of the nodes; ones that have the GPUs. More of them find spot machines sooner."
  type        = list(string)
  default     = ["us-central1-a", "us-central1-b", "us-central1-c"]
}

variable "name" {
  description = "What the cluster is called, and what the names of the rest begin with."
  type        = string
  default     = "yt8m"
}

variable "bucket" {
  description = "Name of the bucket for data, checkpoints and models; unique in all of Google Cloud. Empty: PROJECT-NAME."
  type        = string
  default     = ""
}

variable "namespace" {
  description = "Kubernetes namespace in which the steps run: kubeflow, or a profile's."
  type        = string
  default     = "kubeflow"
}

variable "kubernetes_service_account" {
  description = "Kubernetes service account as which they run; Kubeflow Pipelines' own is pipeline-runner."
  type        = string
  default     = "pipeline-runner"
}

variable "cpu_machine_type" {
  description = "Machines of the pool for Kubeflow itself and for the steps without a GPU."
  type        = string
  default     = "e2-standard-8"
}

variable "cpu_max_nodes" {
  description = "Most nodes of that pool, over all zones."
  type        = number
  default     = 6
}

variable "gpu_pools" {
  description = "Pools of nodes with GPUs, which grow from 0; profiles gke-l4 and gke-a100-spot go with the default ones."
  type = map(object({
    machine_type      = string
    accelerator_type  = string
    accelerator_count = number
    spot              = bool
    max_nodes         = number
  }))
  default = {
    l4 = {
      machine_type      = "g2-standard-8"
      accelerator_type  = "nvidia-l4"
      accelerator_count = 1
      spot              = false
      max_nodes         = 2
    }
    a100-spot = {
      machine_type      = "a2-highgpu-1g"
      accelerator_type  = "nvidia-tesla-a100"
      accelerator_count = 1
      spot              = true
      max_nodes         = 2
    }
  }
}

variable "deletion_protection" {
  description = "Whether terraform destroy is to leave the cluster alone."
  type        = bool
  default     = true
}
