#!/bin/sh
# Run by the PostgreSQL image once, when it has made the database: sql/readonly_role.sql, as every database needs it.
set -eu
DB_READONLY_USERNAME=sidecart_reader
DB_READONLY_PASSWORD=$(cat "${SECRETS:-/run/sidecart}/reader_password")
export DB_READONLY_USERNAME DB_READONLY_PASSWORD
exec psql --no-psqlrc --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --file "${SCRIPTS:-/sql}/readonly_role.sql"
