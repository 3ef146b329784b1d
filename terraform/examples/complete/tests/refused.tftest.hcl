# What must never be built, each module in a word. `make test` runs this file; each module's own tests have more.

mock_provider "aws" {
  source = "../../testing"
}

run "public_network_is_refused" {
  command = plan

  module {
    source = "../../modules/network"
  }

  variables {
    name         = "shop"
    kms_key_arn  = "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-0000-0000-000000000000"
    client_cidrs = ["0.0.0.0/0"]
  }

  expect_failures = [var.client_cidrs]
}

run "unencrypted_instance_is_refused" {
  command = plan

  module {
    source = "../../modules/rds"
  }

  variables {
    name               = "shop"
    subnet_ids         = ["subnet-0a", "subnet-0b"]
    security_group_ids = ["sg-0db"]
    kms_key_arn        = ""
  }

  expect_failures = [var.kms_key_arn]
}

run "database_without_tls_is_refused" {
  command = plan

  module {
    source = "../../modules/rds"
  }

  variables {
    name               = "shop"
    subnet_ids         = ["subnet-0a", "subnet-0b"]
    security_group_ids = ["sg-0db"]
    kms_key_arn        = "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-0000-0000-000000000000"
    parameters         = { "rds.force_ssl" = "0" }
  }

  expect_failures = [var.parameters]
}

run "sidecart_without_tls_is_refused" {
  command = plan

  module {
    source = "../../modules/sidecart"
  }

  variables {
    name        = "shop"
    form        = "sidecar"
    image       = "ghcr.io/example/sidecart:1.0.0"
    kms_key_arn = "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-0000-0000-000000000000"
    db_host     = "db.example.com"
    secret_arn  = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:shop-AbCdEf"
    db_sslmode  = "disable"
    listen_tls  = "off"
  }

  expect_failures = [var.db_sslmode, var.listen_tls]
}
