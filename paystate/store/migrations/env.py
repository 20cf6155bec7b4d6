"""Alembic's entry point: migrations run on the connection that `paystate.store.migrate` opened."""

from alembic import context

from paystate.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
