variable "name" {
  description = "Name of the deployment, and the beginning of the name of everything that the module makes."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 32 lower-case letters, digits and hyphens, and begin with a letter."
  }
}

variable "kms_key_arn" {
  description = "ARN of the KMS key that encrypts the secret and the log."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a KMS key (arn:aws:kms:REGION:ACCOUNT:key/ID)."
  }
}

# --- the database -----------------------------------------------------------------------------------------------------

variable "primary_host" {
  description = "Host name of the instance that takes writes: the role is made there."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9.-]+$", var.primary_host))
    error_message = "primary_host must be a host name without a port."
  }
}

variable "upstream_host" {
  description = "Host name that the secret names, and that SideCart connects to; null: primary_host. Best that of a replica."
  type        = string
  default     = null

  validation {
    condition     = var.upstream_host == null || can(regex("^[A-Za-z0-9.-]+$", var.upstream_host))
    error_message = "upstream_host must be a host name without a port."
  }
}

variable "port" {
  description = "Port of the database."
  type        = number
  default     = 5432
  nullable    = false

  validation {
    condition     = var.port >= 1150 && var.port <= 65535
    error_message = "port must be between 1150 and 65535, as RDS has it."
  }
}

variable "databases" {
  description = "Databases that the role may read. The first one is named in the secret."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.databases) > 0 && alltrue([for name in var.databases : can(regex("^[A-Za-z_][A-Za-z0-9_-]{0,62}$", name))])
    error_message = "databases must hold a name at least; names are 1 to 63 letters, digits, underscores and hyphens."
  }
}

variable "resource_ids" {
  description = "Resource ids (db-ABC...) of the instances that the role may log in to by IAM."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.resource_ids) > 0 && !contains(var.resource_ids, "*")
    error_message = "resource_ids must name the instances: a policy for every database of the account is refused."
  }
}

variable "sslmode" {
  description = "How the certificate of the database is checked."
  type        = string
  default     = "verify-full"
  nullable    = false

  validation {
    condition     = contains(["verify-ca", "verify-full"], var.sslmode)
    error_message = "sslmode must be verify-full, or verify-ca; TLS that verifies nothing, or none, is refused."
  }
}

variable "admin_secret_arn" {
  description = "ARN of the secret of the database's owner: JSON with username and password, as RDS manages it."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^arn:[a-z-]+:secretsmanager:", var.admin_secret_arn))
    error_message = "admin_secret_arn must be the ARN of a secret (arn:aws:secretsmanager:...)."
  }
}

variable "admin_kms_key_arn" {
  description = "ARN of the KMS key of the owner's secret; null: kms_key_arn."
  type        = string
  default     = null

  validation {
    condition     = var.admin_kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:", var.admin_kms_key_arn))
    error_message = "admin_kms_key_arn must be the ARN of a KMS key (arn:aws:kms:...)."
  }
}

# --- the role ---------------------------------------------------------------------------------------------------------

variable "username" {
  description = "Name of the read-only role."
  type        = string
  default     = "sidecart_reader"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9_]{0,62}$", var.username)) && !startswith(var.username, "pg_")
    error_message = "username must be 1 to 63 lower-case letters, digits and underscores, and not begin with pg_."
  }
}

variable "password" {
  description = "Password of the role, such as readonly_password of the module rds; null: the module makes one."
  type        = string
  default     = null
  sensitive   = true

  validation {
    condition     = var.password == null || can(regex("^.{20,}$", var.password))
    error_message = "password must have 20 characters at least."
  }
}

variable "password_version" {
  description = "Any other number makes a new password, where the module makes it."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.password_version >= 1 && floor(var.password_version) == var.password_version
    error_message = "password_version must be a whole number from 1."
  }
}

# --- the one-shot task ------------------------------------------------------------------------------------------------

variable "image" {
  description = "SideCart's image, by digest or by a tag other than latest."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("(@sha256:[0-9a-f]{64}|:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})$", var.image)) && !endswith(var.image, ":latest")
    error_message = "image must end in a digest (@sha256:...) or in a tag other than latest."
  }
}

variable "cpu_architecture" {
  description = "Processor of the task: ARM64 or X86_64."
  type        = string
  default     = "ARM64"
  nullable    = false

  validation {
    condition     = contains(["ARM64", "X86_64"], var.cpu_architecture)
    error_message = "cpu_architecture must be ARM64 or X86_64."
  }
}

variable "cluster_arn" {
  description = "ARN of the ECS cluster that the task runs in."
  type        = string
  nullable    = false
}

variable "subnet_ids" {
  description = "Private subnets that reach the database and AWS's services."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.subnet_ids) > 0
    error_message = "subnet_ids must name a subnet."
  }
}

variable "security_group_ids" {
  description = "Security groups of the task: SideCart's, which the database accepts."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.security_group_ids) > 0
    error_message = "security_group_ids must name a group: without one the task gets the VPC's default group."
  }
}

variable "apply_role" {
  description = "Run the task while Terraform applies, with the AWS CLI of this machine. false: run it yourself, see the output command."
  type        = bool
  default     = true
  nullable    = false
}

variable "revoke_public" {
  description = "Take from everybody (PUBLIC) what is no reading, too, and give it to the roles that log in to the database."
  type        = bool
  default     = false
  nullable    = false
}

variable "run_again" {
  description = "Any other text runs the task again: after a schema was added, for example a date."
  type        = string
  default     = ""
  nullable    = false
}

variable "log_retention_days" {
  description = "Days that the task's log is kept."
  type        = number
  default     = 365
  nullable    = false

  validation {
    condition     = contains([30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.log_retention_days)
    error_message = "log_retention_days must be one of CloudWatch's: 30, 60, 90, 120, 150, 180, 365, 400, 545, 731."
  }
}

variable "tags" {
  description = "Tags of everything that the module makes."
  type        = map(string)
  default     = {}
  nullable    = false
}
