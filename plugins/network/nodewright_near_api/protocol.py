"""The answers of ``EXPERIMENTAL_protocol_config``: fees and limits of the rules that this network runs by; and of
``EXPERIMENTAL_genesis_config``: what of them stands in the genesis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from attrs import asdict

from nodewright_near.parameters import Fee, Fees, Parameters
from nodewright_near_api.chainviews import rfc3339
from nodewright_nightshade.blocks import Block


def _fee(fee: Fee) -> dict[str, int]:
    return asdict(fee)


def _ratio(value: Fraction) -> list[int]:
    return [value.numerator, value.denominator]


def _costs(parameters: Parameters) -> dict[str, Any]:
    fees: Fees = parameters.fees
    return {
        "action_receipt_creation_config": _fee(fees.action_receipt),
        "data_receipt_creation_config": {
            "base_cost": _fee(fees.data_receipt_base),
            "cost_per_byte": _fee(fees.data_receipt_byte),
        },
        "action_creation_config": {
            "create_account_cost": _fee(fees.create_account),
            "deploy_contract_cost": _fee(fees.deploy_contract),
            "deploy_contract_cost_per_byte": _fee(fees.deploy_contract_byte),
            "function_call_cost": _fee(fees.function_call),
            "function_call_cost_per_byte": _fee(fees.function_call_byte),
            "transfer_cost": _fee(fees.transfer),
            "stake_cost": _fee(fees.stake),
            "add_key_cost": {
                "full_access_cost": _fee(fees.add_full_access_key),
                "function_call_cost": _fee(fees.add_function_call_key),
                "function_call_cost_per_byte": _fee(fees.add_function_call_key_byte),
            },
            "delete_key_cost": _fee(fees.delete_key),
            "delete_account_cost": _fee(fees.delete_account),
            "delegate_cost": _fee(fees.delegate),
        },
        "storage_usage_config": {
            "num_bytes_account": parameters.account_bytes,
            "num_extra_bytes_record": parameters.record_bytes,
        },
        "burnt_gas_reward": _ratio(parameters.burnt_gas_reward),
        "pessimistic_gas_price_inflation_ratio": [1, 1],
    }


def _limits(parameters: Parameters) -> dict[str, Any]:
    limits = parameters.limits
    return {
        "max_gas_burnt": limits.max_gas_burnt,
        "max_total_prepaid_gas": limits.max_prepaid_gas,
        "max_actions_per_receipt": limits.max_actions,
        "max_number_bytes_method_names": limits.max_method_names_bytes,
        "max_length_method_name": limits.max_method_name,
        "max_arguments_length": limits.max_arguments,
        "max_length_returned_data": limits.max_returned_data,
        "max_contract_size": limits.max_contract,
        "max_transaction_size": limits.max_transaction,
        "max_receipt_size": limits.max_receipt,
        "max_length_storage_key": limits.max_storage_key,
        "max_length_storage_value": limits.max_storage_value,
        "max_promises_per_function_call_action": limits.max_promises,
        "max_number_input_data_dependencies": limits.max_input_data,
        "max_number_logs": limits.max_logs,
        "max_total_log_length": limits.max_log_bytes,
        "max_number_registers": limits.max_registers,
        "max_register_size": limits.max_register,
        "registers_memory_limit": limits.registers_memory,
        "initial_memory_pages": limits.initial_memory_pages,
        "max_memory_pages": limits.max_memory_pages,
    }


def _congestion(parameters: Parameters) -> dict[str, Any]:
    congestion = parameters.congestion
    return {
        "max_congestion_incoming_gas": congestion.max_incoming_gas,
        "max_congestion_outgoing_gas": congestion.max_outgoing_buffer_gas,
        "max_congestion_memory_consumption": congestion.max_memory,
        "max_congestion_missed_chunks": congestion.max_missed_chunks,
        "max_outgoing_gas": congestion.max_outgoing_gas,
        "min_outgoing_gas": congestion.min_outgoing_gas,
        "allowed_shard_outgoing_gas": congestion.allowed_shard_outgoing_gas,
        "max_tx_gas": congestion.max_tx_gas,
        "min_tx_gas": congestion.min_tx_gas,
        "reject_tx_congestion_threshold": float(congestion.reject_at),
    }


def _layout(network: Mapping[str, Any]) -> dict[str, Any]:
    shards = range(network["shards"])
    return {
        "V2": {
            "boundary_accounts": list(network["boundaries"]),
            "shard_ids": list(shards),
            "id_to_index_map": {str(shard): shard for shard in shards},
            "index_to_id_map": {str(shard): shard for shard in shards},
            "shards_split_map": None,
            "shards_parent_map": None,
            "version": 3,
        }
    }


def _network(parameters: Parameters, network: Mapping[str, Any], genesis: Block) -> dict[str, Any]:
    """What both configurations say of the network."""
    return {
        "protocol_version": network["protocol_version"],
        "genesis_time": rfc3339(genesis.header.inner_lite.timestamp),
        "chain_id": network["chain_id"],
        "genesis_height": network["genesis_height"],
        "epoch_length": network["epoch_length"],
        "gas_limit": network["gas_limit"],
        "min_gas_price": str(network["min_gas_price"]),
        "max_gas_price": str(network["max_gas_price"]),
        "gas_price_adjustment_rate": [1, 100],
        "transaction_validity_period": parameters.transaction_validity,
        "fishermen_threshold": str((1 << 128) - 1),
        "minimum_stake_divisor": 10,
        "minimum_stake_ratio": [1, 6250],
        "dynamic_resharding": False,
        "shard_layout": _layout(network),
    }


def genesis_config(
    parameters: Parameters, network: Mapping[str, Any], genesis: Block, validators: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """``validators`` as in the genesis document."""
    return {
        **_network(parameters, network, genesis),
        "validators": [
            {"account_id": str(one["account"]), "public_key": str(one["key"]), "amount": str(one["stake"])}
            for one in validators
        ],
        "num_block_producer_seats": len(validators),
        "num_block_producer_seats_per_shard": [len(validators)] * network["shards"],
        "avg_hidden_validator_seats_per_shard": [0] * network["shards"],
        "total_supply": str(genesis.header.inner_rest.total_supply),
    }


def protocol_config(parameters: Parameters, network: Mapping[str, Any], genesis: Block) -> dict[str, Any]:
    """``network`` as the consensus tells it."""
    return {
        **_network(parameters, network, genesis),
        "runtime_config": {
            "storage_amount_per_byte": str(parameters.storage_amount_per_byte),
            "transaction_costs": _costs(parameters),
            "wasm_config": {"limit_config": _limits(parameters)},
            "account_creation_config": {
                "min_allowed_top_level_account_length": parameters.min_top_level,
                "registrar_account_id": parameters.registrar,
            },
            "congestion_control_config": _congestion(parameters),
        },
    }
