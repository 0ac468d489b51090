"""The service ``near_api``: NEAR's JSON-RPC, its wait levels, light-client proofs and sandbox calls.

Names, shapes and errors are those that NEAR's public clients were written against (JSON-RPC of nearcore, protocol 84).
"""
