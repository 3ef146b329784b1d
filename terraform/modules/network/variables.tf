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
  description = "ARN of the KMS key that encrypts the flow logs; unused with an existing VPC."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a KMS key (arn:aws:kms:...)."
  }
  validation {
    condition     = var.vpc_id != null || var.kms_key_arn != null
    error_message = "kms_key_arn is needed for a new VPC: its flow logs are encrypted."
  }
}

# --- a new VPC --------------------------------------------------------------------------------------------------------

variable "cidr" {
  description = "Addresses of the new VPC; unused with vpc_id."
  type        = string
  default     = "10.42.0.0/16"
  nullable    = false

  validation {
    condition = can(cidrnetmask(var.cidr)) && can(regex(
      "^(10\\.|172\\.(1[6-9]|2[0-9]|3[01])\\.|192\\.168\\.).*/(1[6-9]|2[0-2])$", var.cidr
    ))
    error_message = "cidr must be a private IPv4 network (10/8, 172.16/12, 192.168/16) with a prefix of /16 to /22."
  }
}

variable "availability_zones" {
  description = "How many availability zones the new VPC spans."
  type        = number
  default     = 2
  nullable    = false

  validation {
    condition     = contains([2, 3], var.availability_zones)
    error_message = "availability_zones must be 2 or 3: RDS wants subnets in two."
  }
}

variable "public_subnets" {
  description = "Give the new VPC public subnets, for the developer's load balancer alone."
  type        = bool
  default     = false
  nullable    = false
}

# --- an existing VPC --------------------------------------------------------------------------------------------------

variable "vpc_id" {
  description = "Existing VPC; null makes a new one."
  type        = string
  default     = null

  validation {
    condition     = var.vpc_id == null || can(regex("^vpc-[0-9a-f]+$", var.vpc_id))
    error_message = "vpc_id must look like vpc-0123456789abcdef0, or be null for a new VPC."
  }
}

variable "private_subnet_ids" {
  description = "Private subnets of the existing VPC, in two availability zones at least."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = var.vpc_id == null ? length(var.private_subnet_ids) == 0 : length(var.private_subnet_ids) >= 2
    error_message = "private_subnet_ids must name two subnets or more with vpc_id, and none without."
  }
}

variable "public_subnet_ids" {
  description = "Public subnets of the existing VPC, for the developer's load balancer."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = var.vpc_id != null || length(var.public_subnet_ids) == 0
    error_message = "public_subnet_ids belongs to vpc_id; for a new VPC set public_subnets."
  }
}

variable "route_table_ids" {
  description = "Route tables of the existing private subnets that have no S3 endpoint yet; it is put into them."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = length(var.route_table_ids) == 0 || (var.vpc_id != null && var.create_endpoints)
    error_message = "route_table_ids belongs to an existing VPC with create_endpoints = true."
  }
}

# --- AWS's services ---------------------------------------------------------------------------------------------------

variable "create_endpoints" {
  description = "Make VPC endpoints for the services that SideCart needs. Turn it off in a VPC that has them already."
  type        = bool
  default     = true
  nullable    = false

  validation {
    condition     = var.create_endpoints || var.vpc_id != null
    error_message = "a new VPC needs its endpoints: it has no other way to AWS's services."
  }
}

variable "interface_endpoints" {
  description = "Services that get an interface endpoint, by the last part of their name. Leave out those that the existing VPC has."
  type        = set(string)
  default     = ["ecr.api", "ecr.dkr", "logs", "secretsmanager"]
  nullable    = false

  validation {
    condition = var.endpoint_security_group_id != null || alltrue([
      for needed in ["ecr.api", "ecr.dkr", "logs", "secretsmanager"] : contains(var.interface_endpoints, needed)
    ])
    error_message = "interface_endpoints must hold ecr.api, ecr.dkr, logs and secretsmanager, unless the existing VPC has some: then give their endpoint_security_group_id."
  }
}

variable "endpoint_security_group_id" {
  description = "Security group of the endpoints that the existing VPC has; SideCart may send to it."
  type        = string
  default     = null

  validation {
    condition     = var.endpoint_security_group_id == null || can(regex("^sg-[0-9a-f]+$", var.endpoint_security_group_id))
    error_message = "endpoint_security_group_id must look like sg-0123456789abcdef0."
  }
  validation {
    condition     = var.endpoint_security_group_id == null ? var.create_endpoints : var.vpc_id != null
    error_message = "endpoint_security_group_id must be given with create_endpoints = false, and only for an existing VPC."
  }
}

# --- who may connect --------------------------------------------------------------------------------------------------

variable "client_security_group_ids" {
  description = "Existing security groups whose members may connect to SideCart, beside those of the group `clients`."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for id in var.client_security_group_ids : can(regex("^sg-[0-9a-f]+$", id))])
    error_message = "client_security_group_ids must look like sg-0123456789abcdef0."
  }
}

variable "client_cidrs" {
  description = "Private networks whose machines may connect to SideCart, such as an office behind a VPN. Groups are better."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition = alltrue([
      for cidr in var.client_cidrs : can(cidrnetmask(cidr)) && can(regex(
        "^(10\\.|172\\.(1[6-9]|2[0-9]|3[01])\\.|192\\.168\\.).*/(1[6-9]|2[0-9]|3[0-2])$", cidr
      ))
    ])
    error_message = "client_cidrs takes private IPv4 networks of /16 or smaller; 0.0.0.0/0, ::/0 and other public networks are refused."
  }
}

variable "developer_cidr" {
  description = "One developer's address as ADDRESS/32, which may connect to the developer's load balancer; null: nobody."
  type        = string
  default     = null

  validation {
    condition = var.developer_cidr == null || (
      can(cidrnetmask(var.developer_cidr)) && can(regex("^[1-9][0-9.]+/32$", var.developer_cidr))
    )
    error_message = "developer_cidr must be one IPv4 address with /32, such as 203.0.113.7/32; a network, 0.0.0.0/0 or ::/0 is refused."
  }
}

variable "metrics_security_group_ids" {
  description = "Existing security groups whose members may scrape SideCart's metrics."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for id in var.metrics_security_group_ids : can(regex("^sg-[0-9a-f]+$", id))])
    error_message = "metrics_security_group_ids must look like sg-0123456789abcdef0."
  }
}

# --- ports and the database -------------------------------------------------------------------------------------------

variable "database_security_group_id" {
  description = "Security group of an existing database, which gets one rule: SideCart may connect. null makes a new group."
  type        = string
  default     = null

  validation {
    condition     = var.database_security_group_id == null || can(regex("^sg-[0-9a-f]+$", var.database_security_group_id))
    error_message = "database_security_group_id must look like sg-0123456789abcdef0."
  }
  validation {
    condition     = var.database_security_group_id == null || var.vpc_id != null
    error_message = "database_security_group_id belongs to an existing VPC: give its vpc_id."
  }
}

variable "database_port" {
  description = "Port of the database."
  type        = number
  default     = 5432
  nullable    = false

  validation {
    condition     = var.database_port >= 1150 && var.database_port <= 65535
    error_message = "database_port must be between 1150 and 65535, as RDS has it."
  }
}

variable "flow_log_retention_days" {
  description = "Days that the flow logs of a new VPC are kept."
  type        = number
  default     = 365
  nullable    = false

  validation {
    condition     = contains([30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.flow_log_retention_days)
    error_message = "flow_log_retention_days must be one of CloudWatch's: 30, 60, 90, 120, 150, 180, 365, 400, 545, 731."
  }
}

variable "tags" {
  description = "Tags of everything that the module makes."
  type        = map(string)
  default     = {}
  nullable    = false
}
