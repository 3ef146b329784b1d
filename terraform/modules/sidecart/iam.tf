# Two roles. The execution role is ECS's own: it pulls the image, reads the secrets, opens the log, and the container never
# has it. The task role is the container's: it has no right at all, or rds-db:connect alone.

locals {
  secret_arns = compact([var.secret_arn, var.users_secret_arn, var.tls_secret_arn])

  log_statement = {
    Sid      = "Log"
    Effect   = "Allow"
    Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    Resource = ["${aws_cloudwatch_log_group.this.arn}:*"]
  }
  image_statements = [
    {
      Sid      = "Image"
      Effect   = "Allow"
      Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      Resource = [coalesce(local.repository, "none")]
    },
    {
      # AWS has no narrower form of this one.
      Sid      = "Registry"
      Effect   = "Allow"
      Action   = ["ecr:GetAuthorizationToken"]
      Resource = ["*"]
    },
  ]
  secret_statement = {
    Sid      = "Secrets"
    Effect   = "Allow"
    Action   = ["secretsmanager:GetSecretValue"]
    Resource = local.secret_arns
  }
  decrypt_statement = {
    Sid      = "DecryptSecrets"
    Effect   = "Allow"
    Action   = ["kms:Decrypt"]
    Resource = [var.kms_key_arn]
    Condition = {
      StringEquals = { "kms:ViaService" = "secretsmanager.${local.region}.amazonaws.com" }
    }
  }

  execution_policy = {
    Version = "2012-10-17"
    Statement = concat(
      [local.log_statement],
      [for statement in local.image_statements : statement if local.repository != null],
      [for statement in [local.secret_statement] : statement if length(local.secret_arns) > 0],
      [for statement in [local.decrypt_statement] : statement if length(local.secret_arns) > 0],
    )
  }

  # Only ECS may take the roles, and only for this account's tasks.
  ecs_may_assume = jsonencode({
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

resource "aws_iam_role" "execution" {
  count = local.service ? 1 : 0

  name_prefix        = "${var.name}-exec-"
  description        = "Starts SideCart's tasks: pulls the image, reads its secrets, opens its log"
  assume_role_policy = local.ecs_may_assume
  tags               = var.tags
}

resource "aws_iam_role_policy" "execution" {
  count = local.service ? 1 : 0

  name   = "start-sidecart"
  role   = aws_iam_role.execution[0].id
  policy = jsonencode(local.execution_policy)
}

resource "aws_iam_role" "task" {
  count = local.service ? 1 : 0

  name_prefix        = "${var.name}-task-"
  description        = "SideCart itself: no right but to log in to its database by IAM, where it does"
  assume_role_policy = local.ecs_may_assume
  tags               = var.tags
}

resource "aws_iam_role_policy_attachment" "connect" {
  count = local.service && var.upstream_auth == "iam" ? 1 : 0

  role       = aws_iam_role.task[0].name
  policy_arn = var.connect_policy_arn
}
