# Everything: a VPC without a way to the internet, a database, its read-only role, and SideCart as a service before it.

locals {
  tags = { Project = "sidecart", Deployment = var.name }
}

module "kms" {
  source = "../../modules/kms"

  name = var.name
  tags = local.tags
}

module "network" {
  source = "../../modules/network"

  name           = var.name
  kms_key_arn    = module.kms.key_arn
  public_subnets = var.developer_cidr != null
  developer_cidr = var.developer_cidr
  tags           = local.tags
}

module "rds" {
  source = "../../modules/rds"

  name                = var.name
  subnet_ids          = module.network.private_subnet_ids
  security_group_ids  = [module.network.database_security_group_id]
  kms_key_arn         = module.kms.key_arn
  read_replica        = var.read_replica
  master_password     = var.master_password
  deletion_protection = var.deletion_protection
  tags                = local.tags
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
  primary_host       = module.rds.primary_endpoint
  upstream_host      = module.rds.endpoint
  port               = module.rds.port
  databases          = [module.rds.database_name]
  resource_ids       = module.rds.resource_ids
  admin_secret_arn   = module.rds.master_secret_arn
  username           = module.rds.readonly_username
  password           = module.rds.readonly_password
  cluster_arn        = aws_ecs_cluster.this.arn
  subnet_ids         = module.network.private_subnet_ids
  security_group_ids = [module.network.sidecart_security_group_id]
  apply_role         = var.apply_role
  revoke_public      = true # a new database: nobody is used to anything yet
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
  db_host                          = module.rds.endpoint
  db_port                          = module.rds.port
  db_name                          = module.rds.database_name
  username                         = module.readonly_role.username
  secret_arn                       = module.readonly_role.secret_arn
  secret_version_id                = module.readonly_role.secret_version_id
  tls_secret_arn                   = var.tls_secret_arn
  alarm_topic_arns                 = var.alarm_topic_arns
  deletion_protection              = var.deletion_protection
  tags                             = local.tags

  developer_load_balancer = var.developer_cidr == null ? null : {
    subnet_ids        = module.network.public_subnet_ids
    security_group_id = module.network.developer_security_group_id
  }
}
