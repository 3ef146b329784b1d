variable "region" {
  description = "Region of everything."
  type        = string
  default     = "eu-central-1"
  nullable    = false
}

variable "name" {
  description = "Name of the deployment."
  type        = string
  default     = "sidecart"
  nullable    = false
}

variable "image" {
  description = "SideCart's image in ECR of this region: the VPC has no way to the internet."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[0-9]{12}\\.dkr\\.ecr\\.", var.image))
    error_message = "image must be in ECR (ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG): the new VPC has no way to another registry."
  }
}

variable "developer_cidr" {
  description = "One developer's address as ADDRESS/32, who may come in from outside; null: nobody."
  type        = string
  default     = null

  validation {
    condition     = var.developer_cidr == null || can(regex("^[1-9][0-9.]+/32$", var.developer_cidr))
    error_message = "developer_cidr must be one IPv4 address with /32, such as 203.0.113.7/32."
  }
}

variable "read_replica" {
  description = "Make a read replica for SideCart, the strongest protection there is. Needs master_password."
  type        = bool
  default     = false
  nullable    = false
}

variable "master_password" {
  description = "The master user's password, with read_replica alone; see the module rds."
  type        = string
  default     = ""
  nullable    = false
  sensitive   = true
  ephemeral   = true
}

variable "tls_secret_arn" {
  description = "Secret with the certificate that clients are shown; see the module sidecart. null: a self-signed one."
  type        = string
  default     = null
}

variable "alarm_topic_arns" {
  description = "SNS topics that alarms are sent to."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "apply_role" {
  description = "Make the read-only role while Terraform applies, with the AWS CLI of this machine."
  type        = bool
  default     = true
  nullable    = false
}

variable "deletion_protection" {
  description = "Refuse to delete the database and the load balancer. Before a destroy, apply once with false."
  type        = bool
  default     = true
  nullable    = false
}
