# SideCart inside the task of an application. The containers of a task share localhost: the application connects to
# localhost:6432, and knows neither the database's host nor a password.

locals {
  tags = { Project = "sidecart", Deployment = var.name }
}

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}

module "network" {
  source = "../../modules/network"

  name                       = var.name
  vpc_id                     = var.vpc_id
  private_subnet_ids         = var.private_subnet_ids
  create_endpoints           = false
  endpoint_security_group_id = var.endpoint_security_group_id
  database_security_group_id = var.database_security_group_id
  tags                       = local.tags
}

module "sidecart" {
  source = "../../modules/sidecart"

  name        = var.name
  form        = "sidecar"
  image       = var.sidecart_image
  kms_key_arn = var.secret_kms_key_arn
  cpu         = 256
  memory      = 2048
  db_host     = var.db_host
  db_name     = var.db_name
  secret_arn  = var.secret_arn
  tags        = local.tags
}

# --- the application's own --------------------------------------------------------------------------------------------

resource "aws_cloudwatch_log_group" "application" {
  name              = "/ecs/${var.name}"
  kms_key_id        = var.secret_kms_key_arn
  retention_in_days = 365
  tags              = local.tags
}

resource "aws_iam_role" "execution" {
  name_prefix = "${var.name}-exec-"
  tags        = local.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id } }
    }]
  })
}

# What SideCart needs, and nothing else.
resource "aws_iam_role_policy" "sidecart" {
  name   = "sidecart"
  role   = aws_iam_role.execution.id
  policy = module.sidecart.execution_policy_json
}

# What the application needs: its image, and its own log.
resource "aws_iam_role_policy_attachment" "application" {
  role       = aws_iam_role.execution.name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
}

resource "aws_ecs_cluster" "this" {
  name = var.name
  tags = local.tags

  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

resource "aws_ecs_task_definition" "this" {
  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = 1024
  memory                   = 4096
  execution_role_arn       = aws_iam_role.execution.arn
  tags                     = local.tags

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = "ARM64"
  }

  container_definitions = jsonencode([
    {
      name                   = "application"
      image                  = var.application_image
      essential              = true
      readonlyRootFilesystem = true
      dependsOn              = module.sidecart.container_depends_on
      environment = [
        { name = "PGHOST", value = "localhost" },
        { name = "PGPORT", value = tostring(module.sidecart.port) },
        { name = "PGDATABASE", value = var.db_name },
        { name = "PGUSER", value = var.name },
      ]
      logConfiguration = {
        logDriver = "awslogs"
        options = {
          awslogs-group         = aws_cloudwatch_log_group.application.name
          awslogs-region        = var.region
          awslogs-stream-prefix = "application"
        }
      }
    },
    module.sidecart.container_definition,
  ])
}

resource "aws_ecs_service" "this" {
  name             = var.name
  cluster          = aws_ecs_cluster.this.arn
  task_definition  = aws_ecs_task_definition.this.arn
  desired_count    = 2
  launch_type      = "FARGATE"
  platform_version = "LATEST"
  tags             = local.tags

  network_configuration {
    subnets          = module.network.private_subnet_ids
    security_groups  = [module.network.sidecart_security_group_id]
    assign_public_ip = false
  }

  depends_on = [aws_iam_role_policy.sidecart, aws_iam_role_policy_attachment.application]
}
