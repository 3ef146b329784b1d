mock_provider "aws" {
  source = "../../testing"
}

# What the stand-in would fill with words that AWS's own provider then finds wrong.
override_resource {
  target = module.rds.aws_db_instance.this
  values = {
    address            = "sidecart.abc.eu-central-1.rds.amazonaws.com"
    resource_id        = "db-PRIMARY"
    master_user_secret = [{ secret_arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:rds!db-x" }]
  }
}

variables {
  image           = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/sidecart:1.0.0"
  apply_role      = false # no AWS to run it
  master_password = ""
}

run "pieces_fit_together" {
  command = apply

  assert {
    condition     = module.rds.endpoint == "sidecart.abc.eu-central-1.rds.amazonaws.com"
    error_message = "SideCart reads from the database"
  }
  assert {
    condition     = { for item in module.sidecart.container_definition.environment : item.name => item.value }["DB_HOST"] == module.rds.endpoint
    error_message = "SideCart's upstream is the one that the database module recommends"
  }
  assert {
    condition     = startswith(module.sidecart.container_definition.secrets[0].valueFrom, module.readonly_role.secret_arn)
    error_message = "SideCart's password is the role's"
  }
  assert {
    condition     = nonsensitive(output.readonly_password) == nonsensitive(module.readonly_role.password)
    error_message = "the role gets the password that is put out"
  }
  assert {
    condition     = output.developer_endpoint == null && length(module.network.public_subnet_ids) == 0
    error_message = "nobody comes in from outside"
  }
}

run "developer_comes_in_at_one_address" {
  command = apply

  variables {
    developer_cidr = "203.0.113.7/32"
  }

  assert {
    condition     = output.developer_endpoint != null && length(module.network.public_subnet_ids) == 2
    error_message = "the developer has a load balancer of his own"
  }
}

run "developer_at_every_address_is_refused" {
  command = plan
  variables {
    developer_cidr = "0.0.0.0/0"
  }
  expect_failures = [var.developer_cidr]
}

run "image_out_of_reach_is_refused" {
  command = plan
  variables {
    image = "ghcr.io/example/sidecart:1.0.0"
  }
  expect_failures = [var.image]
}
