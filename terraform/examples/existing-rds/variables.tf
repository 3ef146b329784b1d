variable "region" {
  description = "Region of the database."
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
  description = "SideCart's image, in a registry that the VPC reaches: ECR of this region, with endpoints alone."
  type        = string
  nullable    = false
}

variable "vpc_id" {
  description = "VPC of the database."
  type        = string
  nullable    = false
}

variable "private_subnet_ids" {
  description = "Private subnets for SideCart, in two availability zones at least."
  type        = list(string)
  nullable    = false
}

variable "route_table_ids" {
  description = "Route tables of these subnets, which the S3 endpoint is put into; none if they have one."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "endpoint_security_group_id" {
  description = "Security group of the endpoints that the VPC has (ecr.api, ecr.dkr, logs, secretsmanager); null: make them."
  type        = string
  default     = null
}

variable "db_instance_identifier" {
  description = "Identifier of the instance that takes writes."
  type        = string
  nullable    = false
}

variable "replica_identifier" {
  description = "Identifier of its read replica, which SideCart reads from; null: from the instance itself."
  type        = string
  default     = null
}

variable "database_security_group_id" {
  description = "Security group of the instance (and its replica); it gets one rule: SideCart may connect."
  type        = string
  nullable    = false
}

variable "databases" {
  description = "Databases that may be read. SideCart serves any of them that clients ask for."
  type        = list(string)
  nullable    = false
}

variable "admin_secret_arn" {
  description = "Secret of the databases' owner: JSON with username and password. null: the one that RDS manages."
  type        = string
  default     = null
}

variable "admin_kms_key_arn" {
  description = "KMS key of that secret; needed where it is not RDS's default key."
  type        = string
  default     = null
}

variable "apply_role" {
  description = "Make the read-only role while Terraform applies, with the AWS CLI of this machine."
  type        = bool
  default     = true
  nullable    = false
}
