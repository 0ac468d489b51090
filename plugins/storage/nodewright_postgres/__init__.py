"""The key-value store ``postgres``: tables of a PostgreSQL server, reached through asyncpg."""
