# Instances for who runs no containers. Each unpacks SideCart's image into a folder of its own and runs it by systemd with
# that folder as its root: the same bytes as in ECS, and no container engine beside it.

data "aws_ssm_parameter" "ami" {
  count = local.ec2 && var.ami_id == null ? 1 : 0

  name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-${var.cpu_architecture == "ARM64" ? "arm64" : "x86_64"}"
}

locals {
  user_data = local.ec2 ? templatefile("${path.module}/templates/user-data.sh.tftpl", {
    environment   = local.environment
    image         = var.image
    listen_verify = var.listen_tls == "verify"
    log_group     = local.log_group
    metadata_open = var.upstream_auth == "iam"
    region        = local.region
    registry      = local.registry
    secret        = coalesce(var.secret_arn, "none")
    secret_stage  = var.secret_version_id
    tls_directory = local.tls_directory
    tls_secret    = coalesce(var.tls_secret_arn, "none")
    users_secret  = coalesce(var.users_secret_arn, "none")
  }) : ""
}

resource "aws_iam_role" "instance" {
  count = local.ec2 ? 1 : 0

  name_prefix = "${var.name}-ec2-"
  description = "SideCart's instances: pull the image, read its secrets, write its log"
  tags        = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ec2.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy" "instance" {
  count = local.ec2 ? 1 : 0

  name   = "run-sidecart"
  role   = aws_iam_role.instance[0].id
  policy = jsonencode(local.execution_policy)
}

resource "aws_iam_role_policy_attachment" "instance_connect" {
  count = local.ec2 && var.upstream_auth == "iam" ? 1 : 0

  role       = aws_iam_role.instance[0].name
  policy_arn = var.connect_policy_arn
}

resource "aws_iam_instance_profile" "this" {
  count = local.ec2 ? 1 : 0

  name_prefix = "${var.name}-"
  role        = aws_iam_role.instance[0].name
  tags        = var.tags
}

resource "aws_launch_template" "this" {
  count = local.ec2 ? 1 : 0

  name_prefix            = "${var.name}-"
  image_id               = var.ami_id == null ? data.aws_ssm_parameter.ami[0].value : var.ami_id
  instance_type          = var.instance_type
  update_default_version = true
  user_data              = base64encode(local.user_data)
  tags                   = var.tags

  iam_instance_profile {
    arn = aws_iam_instance_profile.this[0].arn
  }

  network_interfaces {
    associate_public_ip_address = false
    delete_on_termination       = true
    security_groups             = var.security_group_ids
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  monitoring {
    enabled = true
  }

  # The account's own EBS key: that of the deployment would have to trust the autoscaling service, and this disk holds
  # nothing but the image and the last lines of the log.
  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      encrypted             = true
      volume_type           = "gp3"
      volume_size           = 12
      delete_on_termination = true
    }
  }

  tag_specifications {
    resource_type = "instance"
    tags          = merge(var.tags, { Name = var.name })
  }
}

resource "aws_autoscaling_group" "this" {
  count = local.ec2 ? 1 : 0

  name_prefix               = "${var.name}-"
  min_size                  = var.capacity.min
  max_size                  = var.capacity.max
  vpc_zone_identifier       = var.subnet_ids
  target_group_arns         = [for group in aws_lb_target_group.this : group.arn]
  health_check_type         = "ELB"
  health_check_grace_period = 300

  launch_template {
    id      = aws_launch_template.this[0].id
    version = aws_launch_template.this[0].latest_version
  }

  # Another image, another setting: new instances come up before old ones go.
  instance_refresh {
    strategy = "Rolling"

    preferences {
      min_healthy_percentage = 100
      max_healthy_percentage = 200
      auto_rollback          = true
    }
  }

  dynamic "tag" {
    for_each = merge(var.tags, { Name = var.name })

    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = false # the launch template's tags are on the instances
    }
  }

  depends_on = [aws_lb_listener.this, aws_iam_role_policy.instance]
}

resource "aws_autoscaling_policy" "this" {
  count = local.ec2 ? 1 : 0

  name                   = "${var.name}-cpu"
  autoscaling_group_name = aws_autoscaling_group.this[0].name
  policy_type            = "TargetTrackingScaling"

  target_tracking_configuration {
    target_value = var.capacity.cpu_percent

    predefined_metric_specification {
      predefined_metric_type = "ASGAverageCPUUtilization"
    }
  }
}
