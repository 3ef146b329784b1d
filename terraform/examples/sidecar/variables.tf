variable "region" {
  description = "Region of the application."
  type        = string
  default     = "eu-central-1"
  nullable    = false
}

variable "name" {
  description = "Name of the deployment."
  type        = string
  default     = "reports"
  nullable    = false
}

variable "sidecart_image" {
  description = "SideCart's image, in a registry that the VPC reaches."
  type        = string
  nullable    = false
}

variable "application_image" {
  description = "The application's image, for the same processor (ARM64)."
  type        = string
  nullable    = false
}

variable "vpc_id" {
  description = "VPC of the application and the database."
  type        = string
  nullable    = false
}

variable "private_subnet_ids" {
  description = "Private subnets of the application, in two availability zones at least."
  type        = list(string)
  nullable    = false
}

variable "endpoint_security_group_id" {
  description = "Security group of the VPC's endpoints (ecr.api, ecr.dkr, logs, secretsmanager)."
  type        = string
  nullable    = false
}

variable "database_security_group_id" {
  description = "Security group of the database; it gets one rule: the application's task may connect."
  type        = string
  nullable    = false
}

variable "db_host" {
  description = "Host name of the database, best that of a read replica."
  type        = string
  nullable    = false
}

variable "db_name" {
  description = "Name of the database."
  type        = string
  nullable    = false
}

variable "secret_arn" {
  description = "Secret of the read-only role, in RDS's own layout: the output secret_arn of the module readonly-role."
  type        = string
  nullable    = false
}

variable "secret_kms_key_arn" {
  description = "KMS key that encrypts the secret; the log is encrypted with it, too."
  type        = string
  nullable    = false
}
