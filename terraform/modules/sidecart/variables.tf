variable "name" {
  description = "Name of the deployment, and the beginning of the name of everything that the module makes."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 24 lower-case letters, digits and hyphens, and begin with a letter."
  }
}

variable "form" {
  description = <<-EOT
    What is made, beside the log, its alarms and the container definition.
    service: an ECS Fargate service behind an internal load balancer.
    sidecar: nothing else; the container definition goes into the task of an application.
    ec2: instances with a hardened systemd unit behind an internal load balancer.
  EOT
  type        = string
  default     = "service"
  nullable    = false

  validation {
    condition     = contains(["service", "sidecar", "ec2"], var.form)
    error_message = "form must be service, sidecar or ec2."
  }
}

variable "image" {
  description = "SideCart's image, by digest or by a tag other than latest. Without a way to the internet: in ECR."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9._/:-]*(@sha256:[0-9a-f]{64}|:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})$", var.image)) && !endswith(var.image, ":latest")
    error_message = "image must end in a digest (@sha256:...) or in a tag other than latest."
  }
}

variable "cpu_architecture" {
  description = "Processor of tasks and instances: ARM64 or X86_64."
  type        = string
  default     = "ARM64"
  nullable    = false

  validation {
    condition     = contains(["ARM64", "X86_64"], var.cpu_architecture)
    error_message = "cpu_architecture must be ARM64 or X86_64."
  }
}

variable "kms_key_arn" {
  description = "ARN of the KMS key that encrypts the log and the secrets."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a KMS key (arn:aws:kms:REGION:ACCOUNT:key/ID)."
  }
}

# --- where it runs ----------------------------------------------------------------------------------------------------

variable "vpc_id" {
  description = "The VPC; not needed for a sidecar."
  type        = string
  default     = null

  validation {
    condition     = var.form == "sidecar" || var.vpc_id != null
    error_message = "vpc_id is needed for the forms service and ec2."
  }
}

variable "subnet_ids" {
  description = "Private subnets of SideCart and of its load balancer; not needed for a sidecar."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = var.form == "sidecar" || length(var.subnet_ids) >= 2
    error_message = "subnet_ids must name two subnets or more for the forms service and ec2."
  }
}

variable "security_group_ids" {
  description = "Security groups of SideCart; not needed for a sidecar."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = var.form == "sidecar" || length(var.security_group_ids) > 0
    error_message = "security_group_ids must name a group for the forms service and ec2: without one AWS takes the VPC's default group."
  }
}

variable "load_balancer_security_group_ids" {
  description = "Security groups of the internal load balancer; not needed for a sidecar."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = var.form == "sidecar" || length(var.load_balancer_security_group_ids) > 0
    error_message = "load_balancer_security_group_ids must name a group for the forms service and ec2: a load balancer without one is open."
  }
}

variable "developer_load_balancer" {
  description = "A second load balancer, with a public address, behind a group that one developer's address may reach; null: none."
  type = object({
    subnet_ids        = list(string)
    security_group_id = string
  })
  default = null

  validation {
    condition     = var.developer_load_balancer == null || var.form != "sidecar"
    error_message = "developer_load_balancer belongs to the forms service and ec2."
  }
  validation {
    condition = var.developer_load_balancer == null || (
      length(try(var.developer_load_balancer.subnet_ids, [])) > 0 &&
      try(length(var.developer_load_balancer.security_group_id), 0) > 0
    )
    error_message = "developer_load_balancer needs a public subnet at least, and its security group."
  }
}

variable "cluster_arn" {
  description = "ARN of the ECS cluster of the service."
  type        = string
  default     = null

  validation {
    condition     = var.form != "service" || var.cluster_arn != null
    error_message = "cluster_arn is needed for the form service."
  }
}

variable "cpu" {
  description = "CPU units of a task (1024 are one processor), or of the sidecar."
  type        = number
  default     = 512
  nullable    = false

  validation {
    condition     = contains([256, 512, 1024, 2048, 4096], var.cpu)
    error_message = "cpu must be 256, 512, 1024, 2048 or 4096."
  }
}

variable "memory" {
  description = "MiB of a task, or of the sidecar."
  type        = number
  default     = 2048
  nullable    = false

  validation {
    condition     = var.memory >= 512 && var.memory <= 30720
    error_message = "memory must be between 512 and 30720 MiB."
  }
  # Fargate's sizes (Amazon ECS, "Task CPU and memory"): other pairs fail only when the service is made.
  validation {
    condition = var.form != "service" || contains(var.cpu == 256 ? [512, 1024, 2048] : [
      for gib in range(var.cpu / 512, min(30, var.cpu / 128) + 1) : 1024 * gib
    ], var.memory)
    error_message = "Fargate has no task of this size: with cpu 256 memory is 512, 1024 or 2048; with 512 it is 1024 to 4096, with 1024 it is 2048 to 8192, with 2048 it is 4096 to 16384, with 4096 it is 8192 to 30720 MiB, in steps of 1024."
  }
}

variable "capacity" {
  description = "How many tasks or instances run: at least, at most, and the CPU in per cent that more are started at."
  type = object({
    min         = optional(number, 2)
    max         = optional(number, 4)
    cpu_percent = optional(number, 60)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.capacity.min >= 1 && var.capacity.max >= var.capacity.min && var.capacity.cpu_percent >= 20 && var.capacity.cpu_percent <= 90
    error_message = "capacity needs 1 <= min <= max, and cpu_percent between 20 and 90."
  }
}

variable "instance_type" {
  description = "Type of the instances, for the form ec2; it has to fit cpu_architecture."
  type        = string
  default     = "t4g.small"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9-]+\\.[a-z0-9-]+$", var.instance_type))
    error_message = "instance_type must look like t4g.small."
  }
}

variable "ami_id" {
  description = "Image of Amazon Linux 2023 for the form ec2; null: the newest one."
  type        = string
  default     = null

  validation {
    condition     = var.ami_id == null || can(regex("^ami-[0-9a-f]+$", var.ami_id))
    error_message = "ami_id must look like ami-0123456789abcdef0."
  }
}

variable "deletion_protection" {
  description = "Refuse to delete the internal load balancer. To delete it, apply once with false."
  type        = bool
  default     = true
  nullable    = false
}

# --- the upstream -----------------------------------------------------------------------------------------------------

variable "db_host" {
  description = "Host name of the database, best that of a read replica."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9.-]+$", var.db_host))
    error_message = "db_host must be a host name without a port."
  }
}

variable "db_port" {
  description = "Port of the database."
  type        = number
  default     = 5432
  nullable    = false

  validation {
    condition     = var.db_port >= 1150 && var.db_port <= 65535
    error_message = "db_port must be between 1150 and 65535, as RDS has it."
  }
}

variable "db_name" {
  description = "The one database that is served; empty: any that clients ask for and the role may connect to."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^([A-Za-z_][A-Za-z0-9_-]{0,62})?$", var.db_name))
    error_message = "db_name must be 1 to 63 letters, digits, underscores and hyphens, or empty."
  }
}

variable "db_sslmode" {
  description = "How the certificate of the database is checked."
  type        = string
  default     = "verify-full"
  nullable    = false

  validation {
    condition     = contains(["verify-ca", "verify-full"], var.db_sslmode)
    error_message = "db_sslmode must be verify-full, or verify-ca; TLS that verifies nothing, or none, is refused."
  }
}

variable "username" {
  description = "Name of the read-only role."
  type        = string
  default     = "sidecart_reader"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9_]{0,62}$", var.username)) && !contains(["postgres", "rdsadmin"], var.username)
    error_message = "username must be 1 to 63 lower-case letters, digits and underscores, and not a superuser's."
  }
}

variable "require_readonly_role" {
  description = "What happens when the role turns out to be able to write: refuse (nobody is served), or warn (in the log and /readyz)."
  type        = string
  default     = "refuse"
  nullable    = false

  validation {
    condition     = contains(["refuse", "warn"], var.require_readonly_role)
    error_message = "require_readonly_role must be refuse or warn."
  }
}

variable "upstream_auth" {
  description = "How SideCart logs in to the database: password (from secret_arn) or iam (needs GRANT rds_iam to the role)."
  type        = string
  default     = "password"
  nullable    = false

  validation {
    condition     = contains(["password", "iam"], var.upstream_auth)
    error_message = "upstream_auth must be password or iam."
  }
}

variable "secret_arn" {
  description = "ARN of the role's secret, in RDS's own layout, for upstream_auth = password."
  type        = string
  default     = null

  validation {
    condition     = var.upstream_auth == "iam" ? var.secret_arn == null : can(regex("^arn:[a-z-]+:secretsmanager:", var.secret_arn))
    error_message = "secret_arn must be the ARN of a secret (arn:aws:secretsmanager:...) with upstream_auth = password, and null with iam."
  }
}

variable "secret_version_id" {
  description = "Version of the secret: another one rolls the service. Empty: the current one, at each start."
  type        = string
  default     = ""
  nullable    = false
}

variable "connect_policy_arn" {
  description = "ARN of the policy for rds-db:connect, for upstream_auth = iam."
  type        = string
  default     = null

  validation {
    condition     = (var.upstream_auth == "iam") == (var.connect_policy_arn != null)
    error_message = "connect_policy_arn must be given with upstream_auth = iam, and only then."
  }
}

variable "pool_size" {
  description = "Upstream connections of each task or instance, at most."
  type        = number
  default     = 5
  nullable    = false

  validation {
    condition     = var.pool_size >= 2 && var.pool_size <= 1000
    error_message = "pool_size must be between 2 and 1000."
  }
  validation {
    # One more each, with which the catalogue is read, and twice as many tasks while a new version comes up.
    condition     = var.form == "sidecar" || 2 * var.capacity.max * (var.pool_size + 1) <= var.role_connection_limit
    error_message = "2 * capacity.max * (pool_size + 1) must not exceed role_connection_limit: the database would refuse the rest while a new version comes up."
  }
}

variable "role_connection_limit" {
  description = "CONNECTION LIMIT of the role, which the role script sets to 50."
  type        = number
  default     = 50
  nullable    = false

  validation {
    condition     = var.role_connection_limit >= 1
    error_message = "role_connection_limit must be at least 1."
  }
}

# --- clients ----------------------------------------------------------------------------------------------------------

variable "listen_tls" {
  description = "TLS for clients: require, or verify (clients show a certificate, too). A sidecar may have prefer: it listens on localhost alone."
  type        = string
  default     = "require"
  nullable    = false

  validation {
    condition     = contains(var.form == "sidecar" ? ["prefer", "require"] : ["require", "verify"], var.listen_tls)
    error_message = "listen_tls must be require or verify; for a sidecar prefer or require. TLS cannot be turned off."
  }
}

variable "tls_secret_arn" {
  description = <<-EOT
    ARN of a secret with the certificate that clients are shown: JSON with certificate (PEM, with its chain) and private_key
    (PEM), and client_ca (PEM) for listen_tls = verify. null: a self-signed certificate, with which clients can use
    sslmode=require, but not verify-full.
  EOT
  type        = string
  default     = null

  validation {
    condition     = var.tls_secret_arn == null || can(regex("^arn:[a-z-]+:secretsmanager:", var.tls_secret_arn))
    error_message = "tls_secret_arn must be the ARN of a secret (arn:aws:secretsmanager:...)."
  }
  validation {
    condition     = var.form != "sidecar" || var.tls_secret_arn == null
    error_message = "tls_secret_arn belongs to the forms service and ec2: a sidecar listens on localhost."
  }
  validation {
    condition     = var.listen_tls != "verify" || var.tls_secret_arn != null
    error_message = "tls_secret_arn is needed for listen_tls = verify: it holds the CA of the clients' certificates."
  }
}

variable "users_secret_arn" {
  description = <<-EOT
    ARN of a secret with the users that may come in: JSON with names and their SCRAM-SHA-256 verifiers. null: clients log in
    with the name and the password of the read-only role.
  EOT
  type        = string
  default     = null

  validation {
    condition     = var.users_secret_arn == null || can(regex("^arn:[a-z-]+:secretsmanager:", var.users_secret_arn))
    error_message = "users_secret_arn must be the ARN of a secret (arn:aws:secretsmanager:...)."
  }
  validation {
    condition     = var.upstream_auth != "iam" || var.form == "sidecar" || var.users_secret_arn != null
    error_message = "users_secret_arn is needed with upstream_auth = iam: there is no password of the role that clients could log in with."
  }
}

variable "environment" {
  description = "More of SideCart's variables, such as { SIDECART_FILTER_ALLOW_FUNCTIONS = \"public.slugify\" }."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name in keys(var.environment) : can(regex("^SIDECART_[A-Z_]+$", name))])
    error_message = "environment takes variables that begin with SIDECART_."
  }
  validation {
    condition = alltrue([
      for name in keys(var.environment) : !can(regex("^SIDECART_(LISTEN_|UPSTREAM_|AUTH_|METRICS_|DATABASES$|POOL_DEFAULT_POOL_SIZE$|LOG_FILE$)", name))
    ])
    error_message = "environment must not hold SIDECART_LISTEN_*, _UPSTREAM_*, _AUTH_*, _METRICS_*, _DATABASES, _POOL_DEFAULT_POOL_SIZE, _LOG_FILE: they have variables of the module, which are validated, or belong into a secret."
  }
  validation {
    condition     = alltrue([for value in values(var.environment) : can(regex("^[^\\n\"\\\\$`]*$", value))])
    error_message = "values of environment must be one line without quotes, backslashes, $ and backticks."
  }
}

# --- what is watched --------------------------------------------------------------------------------------------------

variable "log_retention_days" {
  description = "Days that the log is kept."
  type        = number
  default     = 365
  nullable    = false

  validation {
    condition     = contains([30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.log_retention_days)
    error_message = "log_retention_days must be one of CloudWatch's: 30, 60, 90, 120, 150, 180, 365, 400, 545, 731."
  }
}

variable "alarm_topic_arns" {
  description = "SNS topics that alarms are sent to."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for arn in var.alarm_topic_arns : can(regex("^arn:[a-z-]+:sns:", arn))])
    error_message = "alarm_topic_arns must be ARNs of SNS topics (arn:aws:sns:...)."
  }
}

variable "alarm_thresholds" {
  description = "Events within five minutes that are still no alarm."
  type = object({
    refusals          = optional(number, 50)
    refused_logins    = optional(number, 20)
    waiting_clients   = optional(number, 0)
    upstream_failures = optional(number, 0)
    bugs              = optional(number, 0)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for threshold in values(var.alarm_thresholds) : threshold >= 0])
    error_message = "alarm_thresholds must not be negative."
  }
}

variable "tags" {
  description = "Tags of everything that the module makes."
  type        = map(string)
  default     = {}
  nullable    = false
}
