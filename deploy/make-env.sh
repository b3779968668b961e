#!/bin/sh
# Writes .env with new passwords for the cluster, for docker compose. Keep it, and keep it secret.
set -eu
cd "$(dirname "$0")/.."
if [ -e .env ]; then
    echo ".env is there already; it is left as it is" >&2
    exit 0
fi
fresh() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
umask 077
{
    echo "NATS_PASSWORD=$(fresh)"
    echo "NATS_OPERATOR_PASSWORD=$(fresh)"
    echo "NATS_CLUSTER_PASSWORD=$(fresh)"
} >.env.new
mv .env.new .env
echo "wrote .env with three fresh passwords"
