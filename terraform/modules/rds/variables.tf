variable "name" {
  description = "Name of the database instance, and the beginning of the name of everything that the module makes."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}[a-z0-9]$", var.name)) && !strcontains(var.name, "--")
    error_message = "name must be 3 to 32 lower-case letters, digits and single hyphens, and begin with a letter."
  }
}

variable "subnet_ids" {
  description = "Private subnets, in two availability zones at least."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "subnet_ids must name two subnets or more: RDS wants two availability zones."
  }
}

variable "security_group_ids" {
  description = "Security groups of the database: the one that accepts SideCart's group alone."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.security_group_ids) > 0
    error_message = "security_group_ids must name a group: without one RDS takes the VPC's default group."
  }
}

variable "kms_key_arn" {
  description = "ARN of the KMS key that encrypts storage, backups, Performance Insights, logs and the master user's secret."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a KMS key (arn:aws:kms:REGION:ACCOUNT:key/ID): an unencrypted database is refused."
  }
}

# --- the instance -----------------------------------------------------------------------------------------------------

variable "engine_version" {
  description = "Version of PostgreSQL: the major one alone, and RDS takes its newest minor one, or both."
  type        = string
  default     = "17"
  nullable    = false

  validation {
    condition     = can(regex("^1[3-8](\\.[0-9]+)?$", var.engine_version))
    error_message = "engine_version must be 13 to 18, with or without a minor version, such as 17 or 17.5."
  }
}

variable "instance_class" {
  description = "Class of the instance, and of the replica."
  type        = string
  default     = "db.m7g.large"
  nullable    = false

  validation {
    condition     = can(regex("^db\\.[a-z0-9]+\\.[a-z0-9]+$", var.instance_class))
    error_message = "instance_class must look like db.m7g.large."
  }
}

variable "allocated_storage" {
  description = "Storage in GiB."
  type        = number
  default     = 50
  nullable    = false

  validation {
    condition     = var.allocated_storage >= 20 && var.allocated_storage <= 65536
    error_message = "allocated_storage must be between 20 and 65536 GiB."
  }
}

variable "max_allocated_storage" {
  description = "GiB up to which RDS may enlarge the storage by itself."
  type        = number
  default     = 500
  nullable    = false

  validation {
    condition     = var.max_allocated_storage > var.allocated_storage
    error_message = "max_allocated_storage must be larger than allocated_storage."
  }
}

variable "database_name" {
  description = "Name of the first database."
  type        = string
  default     = "app"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9_]{0,62}$", var.database_name))
    error_message = "database_name must be 1 to 63 lower-case letters, digits and underscores, and begin with a letter."
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

variable "parameters" {
  description = "More parameters of the parameter group, as name = value."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = lookup(var.parameters, "rds.force_ssl", "1") == "1"
    error_message = "parameters must not turn rds.force_ssl off: connections without TLS are refused."
  }
  validation {
    condition = alltrue([
      contains(["TLSv1.2", "TLSv1.3"], lookup(var.parameters, "ssl_min_protocol_version", "TLSv1.2")),
      lookup(var.parameters, "password_encryption", "scram-sha-256") == "scram-sha-256",
    ])
    error_message = "parameters must leave ssl_min_protocol_version at TLSv1.2 or TLSv1.3, and password_encryption at scram-sha-256."
  }
}

variable "multi_az" {
  description = "Keep a standby in another availability zone, which takes over when the instance fails."
  type        = bool
  default     = true
  nullable    = false
}

variable "backup_retention_days" {
  description = "Days that automatic backups are kept."
  type        = number
  default     = 14
  nullable    = false

  validation {
    condition     = var.backup_retention_days >= 1 && var.backup_retention_days <= 35
    error_message = "backup_retention_days must be between 1 and 35; a database without backups is refused."
  }
}

variable "deletion_protection" {
  description = "Refuse to delete the instance. To delete it, apply once with false."
  type        = bool
  default     = true
  nullable    = false
}

variable "performance_insights_retention_days" {
  description = "Days that Performance Insights are kept; 7 are free."
  type        = number
  default     = 7
  nullable    = false

  validation {
    condition = (
      contains([7, 731], var.performance_insights_retention_days) ||
      (var.performance_insights_retention_days % 31 == 0 && var.performance_insights_retention_days <= 713 && var.performance_insights_retention_days > 0)
    )
    error_message = "performance_insights_retention_days must be 7, 731, or a multiple of 31 below."
  }
}

variable "log_retention_days" {
  description = "Days that PostgreSQL's own log is kept in CloudWatch."
  type        = number
  default     = 365
  nullable    = false

  validation {
    condition     = contains([30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.log_retention_days)
    error_message = "log_retention_days must be one of CloudWatch's: 30, 60, 90, 120, 150, 180, 365, 400, 545, 731."
  }
}

# --- the master user and the replica ----------------------------------------------------------------------------------

variable "master_username" {
  description = "Name of the master user, who owns the database."
  type        = string
  default     = "app_owner"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9_]{0,15}$", var.master_username)) && !contains(["admin", "rdsadmin", "postgres"], var.master_username)
    error_message = "master_username must be 1 to 16 lower-case letters, digits and underscores, and not admin, rdsadmin or postgres."
  }
}

variable "read_replica" {
  description = <<-EOT
    Make a read replica, and recommend it as SideCart's upstream. RDS makes no replica of a PostgreSQL whose master password
    it manages: without a replica RDS makes that password, keeps it in Secrets Manager and changes it every week; with one,
    master_password is yours to give.
  EOT
  type        = bool
  default     = false
  nullable    = false
}

variable "master_password" {
  description = <<-EOT
    The master user's password, with read_replica alone. It goes into Secrets Manager and to RDS, never into the state. It
    is read when the database is made, when read_replica is turned on, and when master_password_version changes.
  EOT
  type        = string
  default     = ""
  nullable    = false
  sensitive   = true
  ephemeral   = true

  validation {
    condition     = var.master_password == "" || can(regex("^[^/@\" ]{20,128}$", var.master_password))
    error_message = "master_password must have 20 to 128 characters, and none of / @ \" and the blank, as RDS has it."
  }
  validation {
    condition     = var.master_password == "" || var.read_replica
    error_message = "master_password belongs to read_replica = true: without a replica RDS makes the password itself."
  }
}

variable "master_password_version" {
  description = "Any other number sets master_password anew, with read_replica."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.master_password_version >= 1 && floor(var.master_password_version) == var.master_password_version
    error_message = "master_password_version must be a whole number from 1."
  }
}

# --- the read-only role -----------------------------------------------------------------------------------------------

variable "readonly_username" {
  description = "Name of the read-only role. The module readonly-role makes it."
  type        = string
  default     = "sidecart_reader"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9_]{0,62}$", var.readonly_username)) && !startswith(var.readonly_username, "pg_")
    error_message = "readonly_username must be 1 to 63 lower-case letters, digits and underscores, and not begin with pg_."
  }
}

variable "readonly_password_version" {
  description = "Any other number makes a new password for the read-only role."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.readonly_password_version >= 1 && floor(var.readonly_password_version) == var.readonly_password_version
    error_message = "readonly_password_version must be a whole number from 1."
  }
}

variable "tags" {
  description = "Tags of everything that the module makes."
  type        = map(string)
  default     = {}
  nullable    = false
}
