data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.id

  service = var.form == "service"
  sidecar = var.form == "sidecar"
  ec2     = var.form == "ec2"

  port         = 6432
  metrics_port = 9632
  log_group    = "/sidecart/${var.name}"

  own_certificate = var.tls_secret_arn != null
  tls_directory   = "/run/sidecart-tls"

  # What SideCart is told, in each form. A sidecar is reached by the containers of its own task alone: they share localhost.
  environment = merge(
    var.environment,
    {
      DB_HOST                         = var.db_host
      DB_PORT                         = tostring(var.db_port)
      DB_READONLY_USERNAME            = var.username
      DB_SSLMODE                      = var.db_sslmode
      SIDECART_LISTEN_HOST            = local.sidecar ? "127.0.0.1" : "0.0.0.0"
      SIDECART_LISTEN_PORT            = tostring(local.port)
      SIDECART_LISTEN_TLS             = var.listen_tls
      SIDECART_METRICS_HOST           = local.sidecar ? "127.0.0.1" : "0.0.0.0" # the load balancer asks for /healthz
      SIDECART_METRICS_PORT           = tostring(local.metrics_port)
      SIDECART_POOL_DEFAULT_POOL_SIZE = tostring(var.pool_size)

      SIDECART_UPSTREAM_REQUIRE_READONLY_ROLE = var.require_readonly_role
    },
    var.db_name == "" ? {} : { DB_NAME = var.db_name },
    var.upstream_auth == "iam" ? { SIDECART_UPSTREAM_AWS_IAM = "true", SIDECART_UPSTREAM_AWS_REGION = local.region } : {},
    local.own_certificate ? {
      SIDECART_LISTEN_TLS_CERT_FILE = "${local.tls_directory}/certificate.pem"
      SIDECART_LISTEN_TLS_KEY_FILE  = "${local.tls_directory}/private_key.pem"
    } : {},
    var.listen_tls == "verify" ? { SIDECART_LISTEN_TLS_CA_FILE = "${local.tls_directory}/client_ca.pem" } : {},
  )

  # ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME: the repository whose image may be pulled. Any other registry needs no right.
  ecr        = try(regex("^(([0-9]{12})\\.dkr\\.ecr\\.([a-z0-9-]+)\\.[a-z.]+)/([^:@]+)", var.image), [])
  registry   = try(local.ecr[0], "")
  repository = try("arn:${local.partition}:ecr:${local.ecr[2]}:${local.ecr[1]}:repository/${local.ecr[3]}", null)
}
