mock_provider "aws" {
  source = "../../testing"
}

variables {
  name                             = "shop"
  image                            = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/team/sidecart:1.0.0"
  kms_key_arn                      = "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-0000-0000-000000000000"
  vpc_id                           = "vpc-0a1b2c3d"
  subnet_ids                       = ["subnet-0a", "subnet-0b"]
  security_group_ids               = ["sg-05c"]
  load_balancer_security_group_ids = ["sg-01b"]
  cluster_arn                      = "arn:aws:ecs:eu-central-1:111122223333:cluster/shop"
  db_host                          = "shop-replica.abc.eu-central-1.rds.amazonaws.com"
  db_name                          = "app"
  secret_arn                       = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:shop-AbCdEf"
  secret_version_id                = "00000000-1111-2222-3333-444444444444"
}

run "container_is_confined" {
  command = apply

  assert {
    condition     = output.container_definition.user == "65532:65532" && !output.container_definition.privileged
    error_message = "not root"
  }
  assert {
    condition     = output.container_definition.readonlyRootFilesystem
    error_message = "on a read-only root"
  }
  assert {
    condition     = output.container_definition.linuxParameters.capabilities.drop == ["ALL"]
    error_message = "without capabilities"
  }
  assert {
    condition     = output.container_definition.healthCheck.command == ["CMD", "sidecart", "health", "--live"]
    error_message = "the health check does not look at the database"
  }
  assert {
    condition     = output.container_definition.stopTimeout >= 40
    error_message = "there is time to drain"
  }
}

run "tls_is_verified_upstream_and_required_of_clients" {
  command = apply

  assert {
    condition     = { for item in output.container_definition.environment : item.name => item.value }["DB_SSLMODE"] == "verify-full"
    error_message = "the database's certificate and name are verified"
  }
  assert {
    condition     = { for item in output.container_definition.environment : item.name => item.value }["SIDECART_LISTEN_TLS"] == "require"
    error_message = "clients have to use TLS"
  }
  assert {
    condition     = { for item in output.container_definition.environment : item.name => item.value }["SIDECART_UPSTREAM_REQUIRE_READONLY_ROLE"] == "refuse"
    error_message = "nobody is served as a role that can write"
  }
}

run "password_comes_from_the_secret" {
  command = apply

  assert {
    condition = jsonencode(output.container_definition.secrets) == jsonencode([{
      name      = "DB_READONLY_PASSWORD"
      valueFrom = "${var.secret_arn}:password::${var.secret_version_id}"
    }])
    error_message = "ECS takes the password from the secret"
  }
  assert {
    condition     = length([for item in output.container_definition.environment : item if strcontains(item.name, "PASSWORD")]) == 0
    error_message = "no password stands in the environment"
  }
}

run "service_is_private" {
  command = apply

  assert {
    condition     = !aws_ecs_service.this[0].network_configuration[0].assign_public_ip
    error_message = "tasks have no public address"
  }
  assert {
    condition     = aws_ecs_service.this[0].network_configuration[0].security_groups == toset(["sg-05c"])
    error_message = "tasks are in SideCart's group"
  }
  assert {
    condition     = length(aws_lb.this) == 1 && aws_lb.this["internal"].internal && aws_lb.this["internal"].security_groups == toset(["sg-01b"])
    error_message = "the load balancer is internal, and in its group"
  }
  assert {
    condition     = !aws_ecs_service.this[0].enable_execute_command
    error_message = "no shell beside a production credential"
  }
  assert {
    condition     = aws_ecs_service.this[0].deployment_circuit_breaker[0].rollback && aws_ecs_service.this[0].wait_for_steady_state
    error_message = "a deployment that fails is seen, and undone"
  }
  assert {
    condition     = aws_lb_target_group.this["internal"].health_check[0].path == "/healthz"
    error_message = "a failover of the database must not take the targets away"
  }
}

run "roles_have_the_least" {
  command = apply

  assert {
    condition     = length(aws_iam_role_policy_attachment.connect) == 0
    error_message = "the task role has no right"
  }
  assert {
    condition = flatten([
      for statement in jsondecode(aws_iam_role_policy.execution[0].policy).Statement : statement.Resource if statement.Sid == "Secrets"
    ]) == [var.secret_arn]
    error_message = "the execution role reads one secret"
  }
  assert {
    condition = flatten([
      for statement in jsondecode(aws_iam_role_policy.execution[0].policy).Statement : statement.Resource if statement.Sid == "Image"
    ]) == ["arn:aws:ecr:eu-central-1:111122223333:repository/team/sidecart"]
    error_message = "and pulls one image"
  }
  assert {
    condition = [
      for statement in jsondecode(aws_iam_role_policy.execution[0].policy).Statement : statement.Sid if contains(statement.Resource, "*")
    ] == ["Registry"]
    error_message = "nothing but the registry's token is for everything"
  }
  assert {
    condition     = jsondecode(aws_iam_role.task[0].assume_role_policy).Statement[0].Condition.StringEquals["aws:SourceAccount"] == "111122223333"
    error_message = "only this account's tasks may have the role"
  }
}

run "image_of_another_registry_needs_no_right" {
  command = apply

  variables {
    image = "ghcr.io/example/sidecart@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  }

  assert {
    condition     = [for statement in jsondecode(aws_iam_role_policy.execution[0].policy).Statement : statement.Sid] == ["Log", "Secrets", "DecryptSecrets"]
    error_message = "no right for ECR"
  }
}

run "log_is_encrypted_and_watched" {
  command = plan

  assert {
    condition     = aws_cloudwatch_log_group.this.kms_key_id == var.kms_key_arn && aws_cloudwatch_log_group.this.retention_in_days == 365
    error_message = "the log is encrypted, and kept for a year"
  }
  assert {
    condition     = toset(keys(aws_cloudwatch_metric_alarm.this)) == toset(["refusals", "refused_logins", "waiting_clients", "upstream_failures", "bugs"])
    error_message = "refusals, waiting clients and upstream failures have alarms"
  }
  assert {
    condition = alltrue([
      for what, alarm in aws_cloudwatch_metric_alarm.this :
      alarm.namespace == "SideCart/shop" && alarm.metric_name == what &&
      aws_cloudwatch_log_metric_filter.this[what].metric_transformation[0].name == what &&
      aws_cloudwatch_log_metric_filter.this[what].metric_transformation[0].namespace == "SideCart/shop" &&
      aws_cloudwatch_log_metric_filter.this[what].log_group_name == "/sidecart/shop"
    ])
    error_message = "each alarm watches the metric that its filter makes"
  }
}

run "service_scales" {
  command = plan

  assert {
    condition     = aws_appautoscaling_target.this[0].resource_id == "service/shop/shop" && aws_appautoscaling_target.this[0].min_capacity == 2 && aws_appautoscaling_target.this[0].max_capacity == 4
    error_message = "the service scales between its bounds"
  }
}

run "iam_login_takes_no_password" {
  command = apply

  variables {
    upstream_auth      = "iam"
    secret_arn         = null
    secret_version_id  = ""
    connect_policy_arn = "arn:aws:iam::111122223333:policy/connect"
    users_secret_arn   = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:users-AbCdEf"
  }

  assert {
    condition     = { for item in output.container_definition.environment : item.name => item.value }["SIDECART_UPSTREAM_AWS_IAM"] == "true"
    error_message = "SideCart logs in by IAM"
  }
  assert {
    condition     = [for item in output.container_definition.secrets : item.name] == ["SIDECART_AUTH_USERS"]
    error_message = "there is no password; clients are known by their verifiers"
  }
  assert {
    condition     = aws_iam_role_policy_attachment.connect[0].policy_arn == "arn:aws:iam::111122223333:policy/connect"
    error_message = "the task role may connect, and no more"
  }
}

run "own_certificate_is_written_by_a_container_that_ends" {
  command = apply

  variables {
    listen_tls     = "verify"
    tls_secret_arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:tls-AbCdEf"
  }

  assert {
    condition     = [for container in jsondecode(aws_ecs_task_definition.this[0].container_definitions) : container.name] == ["sidecart", "tls"]
    error_message = "the task has a container that writes the files"
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].dependsOn == [{ containerName = "tls", condition = "SUCCESS" }]
    error_message = "SideCart starts when they are written"
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].mountPoints[0].readOnly && jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].readonlyRootFilesystem
    error_message = "and cannot change them"
  }
  assert {
    condition     = [for item in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].secrets : item.name] == ["TLS_CERTIFICATE", "TLS_PRIVATE_KEY", "TLS_CLIENT_CA"]
    error_message = "the files come from the secret"
  }
}

run "developer_comes_in_by_a_door_of_his_own" {
  command = apply

  variables {
    developer_load_balancer = {
      subnet_ids        = ["subnet-0e", "subnet-0f"]
      security_group_id = "sg-0de"
    }
  }

  override_resource {
    target = aws_lb_target_group.this["developer"]
    values = { arn = "arn:aws:elasticloadbalancing:eu-central-1:111122223333:targetgroup/developer/0123456789abcdef" }
  }

  assert {
    condition     = aws_lb.this["internal"].internal && !aws_lb.this["developer"].internal
    error_message = "the second load balancer alone has a public address"
  }
  assert {
    condition     = aws_lb.this["internal"].enable_deletion_protection && !aws_lb.this["developer"].enable_deletion_protection
    error_message = "and goes when the developer does"
  }
  assert {
    condition     = aws_lb.this["developer"].security_groups == toset(["sg-0de"])
    error_message = "and the group that one address may reach"
  }
  assert {
    condition     = length(aws_ecs_service.this[0].load_balancer) == 2
    error_message = "both lead to the service"
  }
}

run "sidecar_makes_no_service_and_listens_on_localhost" {
  command = apply

  variables {
    form                             = "sidecar"
    vpc_id                           = null
    subnet_ids                       = []
    security_group_ids               = []
    load_balancer_security_group_ids = []
    cluster_arn                      = null
    listen_tls                       = "prefer"
  }

  assert {
    condition     = length(aws_ecs_service.this) == 0 && length(aws_lb.this) == 0 && length(aws_iam_role.task) == 0 && length(aws_autoscaling_group.this) == 0
    error_message = "nothing but the log and its alarms is made"
  }
  assert {
    condition     = { for item in output.container_definition.environment : item.name => item.value }["SIDECART_LISTEN_HOST"] == "127.0.0.1"
    error_message = "it listens on localhost"
  }
  assert {
    condition     = length(output.container_definition.portMappings) == 0 && output.endpoint == "localhost"
    error_message = "no port is open"
  }
  assert {
    condition     = output.container_depends_on[0].condition == "HEALTHY"
    error_message = "the application waits for it"
  }
  assert {
    condition     = strcontains(output.execution_policy_json, var.secret_arn) && !strcontains(output.execution_policy_json, "ecs:")
    error_message = "the task's execution role gets what the sidecar needs"
  }
}

run "instances_are_private_and_hardened" {
  command = apply

  variables {
    form        = "ec2"
    cluster_arn = null
  }

  assert {
    condition     = aws_launch_template.this[0].metadata_options[0].http_tokens == "required" && aws_launch_template.this[0].metadata_options[0].http_put_response_hop_limit == 1
    error_message = "the metadata service wants a token"
  }
  assert {
    condition     = aws_launch_template.this[0].network_interfaces[0].associate_public_ip_address == "false"
    error_message = "instances have no public address"
  }
  assert {
    condition     = aws_launch_template.this[0].block_device_mappings[0].ebs[0].encrypted == "true"
    error_message = "their disks are encrypted"
  }
  assert {
    condition     = aws_launch_template.this[0].key_name == null || aws_launch_template.this[0].key_name == ""
    error_message = "there is no key for SSH"
  }
  assert {
    condition = alltrue([
      for line in [
        "NoNewPrivileges=yes", "CapabilityBoundingSet=", "ProtectSystem=strict", "PrivateDevices=yes", "User=sidecart",
        "SystemCallFilter=@system-service", "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "IPAddressDeny=169.254.169.254/32 fd00:ec2::254/128", "RootDirectory=/opt/sidecart",
      ] : strcontains(output.user_data, "\n${line}\n")
    ])
    error_message = "the unit is hardened"
  }
  assert {
    condition     = strcontains(output.user_data, "SIDECART_LISTEN_TLS=\"require\"") && strcontains(output.user_data, "DB_SSLMODE=\"verify-full\"")
    error_message = "TLS is as strict as in the service"
  }
  assert {
    condition     = length(aws_ecs_service.this) == 0 && length(aws_lb.this) == 1 && aws_lb_target_group.this["internal"].target_type == "instance"
    error_message = "the load balancer leads to the instances"
  }
  assert {
    condition     = length(base64encode(output.user_data)) < 21848
    error_message = "user data has at most 16 kB"
  }
}

# --- what is refused --------------------------------------------------------------------------------------------------

run "size_that_fargate_lacks_is_refused" {
  command = plan
  variables {
    cpu    = 512
    memory = 8192
  }
  expect_failures = [var.memory]
}

run "size_between_two_of_fargate_is_refused" {
  command = plan
  variables {
    cpu    = 4096
    memory = 9000
  }
  expect_failures = [var.memory]
}

run "largest_size_is_taken" {
  command = plan
  variables {
    cpu    = 4096
    memory = 30720
  }
}

run "upstream_tls_off_is_refused" {
  command = plan
  variables {
    db_sslmode = "disable"
  }
  expect_failures = [var.db_sslmode]
}

run "client_tls_off_is_refused" {
  command = plan
  variables {
    listen_tls = "off"
  }
  expect_failures = [var.listen_tls]
}

run "optional_client_tls_is_refused_outside_of_a_task" {
  command = plan
  variables {
    listen_tls = "prefer"
  }
  expect_failures = [var.listen_tls]
}

run "tls_off_by_the_environment_is_refused" {
  command = plan
  variables {
    environment = { SIDECART_LISTEN_TLS = "off" }
  }
  expect_failures = [var.environment]
}

run "trust_by_the_environment_is_refused" {
  command = plan
  variables {
    environment = { SIDECART_AUTH_RULES = "[]" }
  }
  expect_failures = [var.environment]
}

run "password_in_the_environment_is_refused" {
  command = plan
  variables {
    environment = { DB_READONLY_PASSWORD = "secret" }
  }
  expect_failures = [var.environment]
}

run "line_break_in_the_environment_is_refused" {
  command = plan
  variables {
    environment = { SIDECART_FILTER_ALLOW_FUNCTIONS = "a\nENVIRONMENT\nrm -rf /" }
  }
  expect_failures = [var.environment]
}

run "open_load_balancer_is_refused" {
  command = plan
  variables {
    load_balancer_security_group_ids = []
  }
  expect_failures = [var.load_balancer_security_group_ids]
}

run "more_connections_than_the_role_may_have_are_refused" {
  command = plan
  variables {
    pool_size = 10
  }
  expect_failures = [var.pool_size]
}

run "latest_image_is_refused" {
  command = plan
  variables {
    image = "ghcr.io/example/sidecart:latest"
  }
  expect_failures = [var.image]
}

run "iam_without_users_is_refused" {
  command = plan
  variables {
    upstream_auth      = "iam"
    secret_arn         = null
    connect_policy_arn = "arn:aws:iam::111122223333:policy/connect"
  }
  expect_failures = [var.users_secret_arn]
}

run "client_certificates_without_their_ca_are_refused" {
  command = plan
  variables {
    listen_tls = "verify"
  }
  expect_failures = [var.tls_secret_arn]
}
