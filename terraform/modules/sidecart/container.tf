# The container, the same in the service and in the task of somebody else.

locals {
  log_configuration = {
    logDriver = "awslogs"
    options = {
      awslogs-group         = aws_cloudwatch_log_group.this.name
      awslogs-region        = local.region
      awslogs-stream-prefix = var.name
      # Not the lossy mode: SideCart writes from a thread of its own, never waits for it, and counts what it had to drop.
      mode = "blocking"
    }
  }

  secrets = concat(
    var.secret_arn == null ? [] : [
      { name = "DB_READONLY_PASSWORD", valueFrom = "${var.secret_arn}:password::${var.secret_version_id}" },
    ],
    var.users_secret_arn == null ? [] : [
      { name = "SIDECART_AUTH_USERS", valueFrom = var.users_secret_arn },
    ],
  )

  container = {
    name                   = "sidecart"
    image                  = var.image
    essential              = true
    cpu                    = var.cpu
    memory                 = var.memory
    entryPoint             = ["sidecart"]
    command                = ["serve"]
    user                   = "65532:65532"
    privileged             = false
    readonlyRootFilesystem = true
    linuxParameters        = { capabilities = { drop = ["ALL"] } }
    ulimits                = [{ name = "nofile", softLimit = 65536, hardLimit = 65536 }]
    environment            = [for name in sort(keys(local.environment)) : { name = name, value = local.environment[name] }]
    secrets                = local.secrets
    logConfiguration       = local.log_configuration
    stopTimeout            = 60 # client.drain_timeout and some time to spare

    portMappings = local.sidecar ? [] : [
      { containerPort = local.port, protocol = "tcp" },
      { containerPort = local.metrics_port, protocol = "tcp" },
    ]

    # --live: whether SideCart itself is well. A database that fails over must not kill the tasks that wait for it.
    healthCheck = {
      command     = ["CMD", "sidecart", "health", "--live"]
      interval    = 10
      timeout     = 5
      retries     = 3
      startPeriod = 30
    }

    mountPoints = local.own_certificate ? [
      { sourceVolume = "tls", containerPath = local.tls_directory, readOnly = true },
    ] : []
    dependsOn = local.own_certificate ? [{ containerName = "tls", condition = "SUCCESS" }] : []
  }

  # SideCart reads its certificate from files, ECS gives secrets as variables: this container writes the ones into the
  # others, in a volume of the task, and ends. It is root since a volume belongs to root; it keeps one capability, CHOWN, and
  # has no network port.
  tls_script = <<-EOT
    import os
    for name in ("certificate", "private_key", "client_ca"):
        text = os.environ.get("TLS_" + name.upper())
        if text:
            path = "${local.tls_directory}/" + name + ".pem"
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as file:
                file.write(text)
            os.chown(path, 65532, 65532)
  EOT

  tls_container = {
    name                   = "tls"
    image                  = var.image
    essential              = false
    entryPoint             = ["python3", "-c"]
    command                = [local.tls_script]
    user                   = "0:0"
    privileged             = false
    readonlyRootFilesystem = true
    linuxParameters = {
      capabilities = {
        drop = [
          "AUDIT_WRITE", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP",
          "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
        ]
      }
    }
    secrets = concat(
      [
        { name = "TLS_CERTIFICATE", valueFrom = "${coalesce(var.tls_secret_arn, "none")}:certificate::" },
        { name = "TLS_PRIVATE_KEY", valueFrom = "${coalesce(var.tls_secret_arn, "none")}:private_key::" },
      ],
      var.listen_tls != "verify" ? [] : [
        { name = "TLS_CLIENT_CA", valueFrom = "${coalesce(var.tls_secret_arn, "none")}:client_ca::" },
      ],
    )
    logConfiguration = local.log_configuration
    mountPoints      = [{ sourceVolume = "tls", containerPath = local.tls_directory, readOnly = false }]
  }
}
