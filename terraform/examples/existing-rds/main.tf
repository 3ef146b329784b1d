# SideCart before a database that is there already. What is there is looked at, and gets one thing: a rule in its security
# group, by which SideCart's group may connect.

locals {
  tags     = { Project = "sidecart", Deployment = var.name }
  upstream = var.replica_identifier == null ? data.aws_db_instance.primary : data.aws_db_instance.replica[0]
}

data "aws_db_instance" "primary" {
  db_instance_identifier = var.db_instance_identifier

  lifecycle {
    postcondition {
      condition     = self.engine == "postgres"
      error_message = "${var.db_instance_identifier} is no PostgreSQL."
    }
    postcondition {
      condition     = self.storage_encrypted
      error_message = "${var.db_instance_identifier} is not encrypted: copy a snapshot with a KMS key, and restore that."
    }
    postcondition {
      condition     = !self.publicly_accessible
      error_message = "${var.db_instance_identifier} has a public address: turn publicly_accessible off, or who knows a password goes around SideCart."
    }
  }
}

data "aws_db_instance" "replica" {
  count = var.replica_identifier == null ? 0 : 1

  db_instance_identifier = var.replica_identifier

  lifecycle {
    postcondition {
      condition     = self.replicate_source_db != ""
      error_message = "${var.replica_identifier} is no read replica."
    }
    postcondition {
      condition     = self.storage_encrypted && !self.publicly_accessible
      error_message = "${var.replica_identifier} must be encrypted and without a public address."
    }
  }
}

module "kms" {
  source = "../../modules/kms"

  name = var.name
  tags = local.tags
}

module "network" {
  source = "../../modules/network"

  name                       = var.name
  vpc_id                     = var.vpc_id
  private_subnet_ids         = var.private_subnet_ids
  route_table_ids            = var.route_table_ids
  create_endpoints           = var.endpoint_security_group_id == null
  endpoint_security_group_id = var.endpoint_security_group_id
  database_security_group_id = var.database_security_group_id
  database_port              = data.aws_db_instance.primary.port
  tags                       = local.tags
}

resource "aws_ecs_cluster" "this" {
  name = var.name
  tags = local.tags

  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

module "readonly_role" {
  source = "../../modules/readonly-role"

  name               = var.name
  image              = var.image
  kms_key_arn        = module.kms.key_arn
  primary_host       = data.aws_db_instance.primary.address
  upstream_host      = local.upstream.address
  port               = data.aws_db_instance.primary.port
  databases          = var.databases
  resource_ids       = concat([data.aws_db_instance.primary.resource_id], data.aws_db_instance.replica[*].resource_id)
  admin_secret_arn   = var.admin_secret_arn == null ? one(data.aws_db_instance.primary.master_user_secret[*].secret_arn) : var.admin_secret_arn
  admin_kms_key_arn  = var.admin_kms_key_arn
  cluster_arn        = aws_ecs_cluster.this.arn
  subnet_ids         = module.network.private_subnet_ids
  security_group_ids = [module.network.sidecart_security_group_id]
  apply_role         = var.apply_role
  tags               = local.tags
}

module "sidecart" {
  source = "../../modules/sidecart"

  name                             = var.name
  image                            = var.image
  kms_key_arn                      = module.kms.key_arn
  vpc_id                           = module.network.vpc_id
  subnet_ids                       = module.network.private_subnet_ids
  security_group_ids               = [module.network.sidecart_security_group_id]
  load_balancer_security_group_ids = [module.network.load_balancer_security_group_id]
  cluster_arn                      = aws_ecs_cluster.this.arn
  db_host                          = local.upstream.address
  db_port                          = local.upstream.port
  username                         = module.readonly_role.username
  secret_arn                       = module.readonly_role.secret_arn
  secret_version_id                = module.readonly_role.secret_version_id
  tags                             = local.tags
}
