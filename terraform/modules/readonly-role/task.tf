# The role is made by a task of SideCart's own image, once, inside the VPC:
#
# - The database is in private subnets. A provider for PostgreSQL would have to reach it from the machine that runs
#   Terraform, and would hold the owner's password in its state. The task is already where the database is, in the group
#   that it accepts, and neither Terraform nor this machine ever sees the owner's password: ECS takes it from Secrets
#   Manager.
# - The image carries the role script of its own version: the role always fits the SideCart that uses it. No function, no
#   layer and no second image has to be built and patched.
#
# Terraform has no resource for "run this task and wait for it": scripts/apply-role.sh does that with the AWS CLI. It
# fails the apply when the task fails, with the task's own log; the next apply then runs it again.

locals {
  # ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME: the repository whose image may be pulled. Any other registry needs no right.
  ecr        = try(regex("^([0-9]{12})\\.dkr\\.ecr\\.([a-z0-9-]+)\\.[a-z.]+/([^:@]+)", var.image), [])
  repository = try("arn:${local.partition}:ecr:${local.ecr[1]}:${local.ecr[0]}:repository/${local.ecr[2]}", null)

  log_group = "/ecs/${var.name}/role"
}

resource "aws_cloudwatch_log_group" "this" {
  name              = local.log_group
  kms_key_id        = var.kms_key_arn
  retention_in_days = var.log_retention_days
  tags              = var.tags
}

resource "aws_iam_role" "execution" {
  name_prefix = "${substr(var.name, 0, 26)}-role-exec-" # 38 characters at most
  description = "Starts the task that makes the read-only role: pulls its image, reads its two secrets, opens its log"
  tags        = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account }
        ArnLike      = { "aws:SourceArn" = "arn:${local.partition}:ecs:${local.region}:${local.account}:*" }
      }
    }]
  })
}

resource "aws_iam_role_policy" "execution" {
  name = "start-role-task"
  role = aws_iam_role.execution.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          Sid      = "Log"
          Effect   = "Allow"
          Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
          Resource = "${aws_cloudwatch_log_group.this.arn}:*"
        },
        {
          Sid      = "Secrets"
          Effect   = "Allow"
          Action   = "secretsmanager:GetSecretValue"
          Resource = [var.admin_secret_arn, aws_secretsmanager_secret.this.arn]
        },
        {
          Sid      = "DecryptSecrets"
          Effect   = "Allow"
          Action   = "kms:Decrypt"
          Resource = distinct([var.kms_key_arn, coalesce(var.admin_kms_key_arn, var.kms_key_arn)])
          Condition = {
            StringEquals = { "kms:ViaService" = "secretsmanager.${local.region}.amazonaws.com" }
          }
        },
      ],
      [for statement in [
        {
          Sid      = "Image"
          Effect   = "Allow"
          Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
          Resource = local.repository
        },
        {
          # AWS has no narrower form of this one.
          Sid      = "Registry"
          Effect   = "Allow"
          Action   = "ecr:GetAuthorizationToken"
          Resource = "*"
        },
      ] : statement if local.repository != null],
    )
  })
}

resource "aws_ecs_task_definition" "this" {
  family                   = "${var.name}-role"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = 256
  memory                   = 512
  execution_role_arn       = aws_iam_role.execution.arn # and no task role: the task itself calls nothing of AWS
  tags                     = var.tags

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.cpu_architecture
  }

  container_definitions = jsonencode([{
    name                   = "role"
    image                  = var.image
    essential              = true
    entryPoint             = ["sidecart"]
    command                = concat(["role", "--apply"], var.revoke_public ? ["--revoke-public"] : [])
    user                   = "65532:65532"
    readonlyRootFilesystem = true
    linuxParameters        = { capabilities = { drop = ["ALL"] } }

    # scripts/apply-role.sh gives DB_NAME for each database in turn; the first one stands here for a run by hand.
    environment = [
      { name = "DB_HOST", value = var.primary_host },
      { name = "DB_NAME", value = var.databases[0] },
      { name = "DB_PORT", value = tostring(var.port) },
      { name = "DB_READONLY_USERNAME", value = var.username },
      { name = "DB_SSLMODE", value = var.sslmode },
    ]
    # The version of the role's password stands in the definition: another password is another revision, and a run.
    secrets = [
      { name = "DB_ADMIN_PASSWORD", valueFrom = "${var.admin_secret_arn}:password::" },
      { name = "DB_ADMIN_USERNAME", valueFrom = "${var.admin_secret_arn}:username::" },
      { name = "DB_READONLY_PASSWORD", valueFrom = "${aws_secretsmanager_secret.this.arn}:password::${aws_secretsmanager_secret_version.this.version_id}" },
    ]

    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.this.name
        awslogs-region        = local.region
        awslogs-stream-prefix = "role"
      }
    }
  }])
}

locals {
  script_environment = {
    AWS_REGION      = local.region
    CLUSTER         = var.cluster_arn
    DATABASES       = join(" ", var.databases)
    LOG_GROUP       = local.log_group
    SECURITY_GROUPS = join(",", var.security_group_ids)
    SUBNETS         = join(",", var.subnet_ids)
    TASK_DEFINITION = aws_ecs_task_definition.this.arn
  }
}

resource "terraform_data" "apply" {
  count = var.apply_role ? 1 : 0

  # What changes the role or its password changes the task definition; the rest is named.
  triggers_replace = [aws_ecs_task_definition.this.arn, var.databases, var.run_again]

  provisioner "local-exec" {
    command     = "${path.module}/scripts/apply-role.sh"
    environment = local.script_environment
  }

  depends_on = [aws_iam_role_policy.execution]
}
