variable "project" {
  description = "Google Cloud project."
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
  description = "Name of the cluster, and prefix of the other names."
  type        = string
  default     = "yt8m"
}

variable "bucket" {
  description = "Name of the bucket for data, checkpoints and models; unique in all of Google Cloud. Empty: PROJECT-NAME."
  type        = string
  default     = ""
}

variable "namespace" {
  description = "Kubernetes namespace that the steps run in: kubeflow, or that of a Kubeflow profile."
  type        = string
  default     = "kubeflow"
}

variable "output_folder" {
  description = "Folder of output_dir in the bucket, gs://BUCKET/OUTPUT_FOLDER: train/, runs/ and published/ lie below it."
  type        = string
  default     = "yt8m"
}

variable "dataflow" {
  description = "Whether the data validation may run on Dataflow."
  type        = bool
  default     = false
}

variable "authorized_networks" {
  description = "Networks, name = CIDR block, that may connect to the control plane's public address. Empty: none; kubectl uses the DNS name, for which IAM decides."
  type        = map(string)
  default     = {}
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
  description = "Whether terraform destroy keeps the cluster."
  type        = bool
  default     = true
}
