"""The part of the host that makes receipts: promises, their actions, and results that came back."""

from __future__ import annotations

from nodewright.interfaces.verifier import Verifier
from nodewright_near.accounts import AccessKey, FunctionCallPermission
from nodewright_near.borsh import Malformed, decode
from nodewright_near.contracts.calls import Call
from nodewright_near.contracts.host import Host
from nodewright_near.contracts.meter import COSTS, HostFailure, Meter
from nodewright_near.contracts.promises import Promises
from nodewright_near.primitives import PublicKey, is_account
from nodewright_near.state import State
from nodewright_near.transactions import (
    Action,
    AddKey,
    CreateAccount,
    DeleteAccount,
    DeleteKey,
    DeployContract,
    FunctionCall,
    Stake,
    Transfer,
)


class PromiseHost(Host):
    def __init__(self, call: Call, state: State, verifier: Verifier, meter: Meter) -> None:
        super().__init__(call, state, verifier, meter)
        self.promises = Promises(call, meter)

    def account(self, count: int, at: int) -> str:
        data = self.given(count, at)
        self.meter.burn(COSTS.utf8_base + COSTS.utf8_byte * len(data))
        try:
            name = data.decode("ascii")
        except UnicodeDecodeError:
            raise HostFailure("String encoding is bad UTF-8 sequence.") from None
        if not is_account(name):
            raise HostFailure("Account ID is invalid")
        return name

    def key(self, count: int, at: int) -> bytes:
        data = self.given(count, at)
        try:
            key: bytes = decode(PublicKey, data)
        except Malformed:
            raise HostFailure("VM Logic provided an invalid public key") from None
        return key

    def spend(self, amount: int) -> None:
        if amount > self.balance:
            raise HostFailure("Exceeded the account balance.")
        self.balance -= amount

    # --- promises ---

    def promise_batch_create(self, count: int, at: int) -> int:
        self.not_in_view("promise_batch_create")
        self.meter.burn(COSTS.base)
        return self.promises.create(self.account(count, at))

    def promise_batch_then(self, promise: int, count: int, at: int) -> int:
        self.not_in_view("promise_batch_then")
        self.meter.burn(COSTS.base)
        return self.promises.then(promise, self.account(count, at))

    def promise_create(
        self,
        account_len: int,
        account_ptr: int,
        method_len: int,
        method_ptr: int,
        args_len: int,
        args_ptr: int,
        amount_ptr: int,
        gas: int,
    ) -> int:
        promise = self.promise_batch_create(account_len, account_ptr)
        self.promise_batch_action_function_call(promise, method_len, method_ptr, args_len, args_ptr, amount_ptr, gas)
        return promise

    def promise_then(
        self,
        before: int,
        account_len: int,
        account_ptr: int,
        method_len: int,
        method_ptr: int,
        args_len: int,
        args_ptr: int,
        amount_ptr: int,
        gas: int,
    ) -> int:
        promise = self.promise_batch_then(before, account_len, account_ptr)
        self.promise_batch_action_function_call(promise, method_len, method_ptr, args_len, args_ptr, amount_ptr, gas)
        return promise

    def promise_and(self, at: int, count: int) -> int:
        self.not_in_view("promise_and")
        self.meter.burn(COSTS.base + COSTS.promise_and_base + COSTS.promise_and_promise * count * 8)
        data = self.peek(at, count * 8)
        return self.promises.join([int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)])

    def promise_return(self, promise: int) -> None:
        self.not_in_view("promise_return")
        self.meter.burn(COSTS.base + COSTS.promise_return)
        self.returned = self.promises.returned(promise)

    def promise_results_count(self) -> int:
        self.not_in_view("promise_results_count")
        self.meter.burn(COSTS.base)
        return len(self.call.promise_results)

    def promise_result(self, number: int, register: int) -> int:
        self.not_in_view("promise_result")
        self.meter.burn(COSTS.base)
        if number >= len(self.call.promise_results):
            raise HostFailure(f"Accessed invalid promise result index: {number}")
        result = self.call.promise_results[number]
        if result is None:
            return 2
        self.set_register(register, result)
        return 1

    # --- their actions ---

    def _append(self, promise: int, action: Action) -> None:
        made = self.promises.single(promise)
        if len(made.actions) >= self.limits.max_actions:
            raise HostFailure(f"The number of actions in a promise exceeds the limit {self.limits.max_actions}")
        made.actions.append(action)

    def _sir(self, promise: int) -> bool:
        return self.promises.sir(self.promises.single(promise).receiver)

    def promise_batch_action_create_account(self, promise: int) -> None:
        self.not_in_view("promise_batch_action_create_account")
        self.meter.burn(COSTS.base)
        self.meter.action(self.call.parameters.fees.create_account, self._sir(promise))
        self._append(promise, CreateAccount())

    def promise_batch_action_deploy_contract(self, promise: int, count: int, at: int) -> None:
        self.not_in_view("promise_batch_action_deploy_contract")
        self.meter.burn(COSTS.base)
        code = self.given(count, at)
        if len(code) > self.limits.max_contract:
            raise HostFailure(f"The size of a contract code in DeployContract action {len(code)} exceeds the limit")
        fees, sir = self.call.parameters.fees, self._sir(promise)
        self.meter.action(fees.deploy_contract, sir)
        self.meter.action(fees.deploy_contract_byte, sir, len(code))
        self._append(promise, DeployContract(code))

    def promise_batch_action_function_call(
        self, promise: int, method_len: int, method_ptr: int, args_len: int, args_ptr: int, amount_ptr: int, gas: int
    ) -> None:
        self.promise_batch_action_function_call_weight(
            promise, method_len, method_ptr, args_len, args_ptr, amount_ptr, gas, 0
        )

    def promise_batch_action_function_call_weight(
        self,
        promise: int,
        method_len: int,
        method_ptr: int,
        args_len: int,
        args_ptr: int,
        amount_ptr: int,
        gas: int,
        weight: int,
    ) -> None:
        self.not_in_view("promise_batch_action_function_call")
        self.meter.burn(COSTS.base)
        deposit = self.u128(amount_ptr)
        name = self.given(method_len, method_ptr)
        if not name:
            raise HostFailure("Method name is empty")
        args = self.given(args_len, args_ptr)
        try:
            method = name.decode()
        except UnicodeDecodeError:
            raise HostFailure("String encoding is bad UTF-8 sequence.") from None
        fees, sir = self.call.parameters.fees, self._sir(promise)
        self.meter.action(fees.function_call, sir)
        self.meter.action(fees.function_call_byte, sir, len(name) + len(args))
        self.meter.promise(gas)
        self.spend(deposit)
        made = self.promises.single(promise)
        self._append(promise, FunctionCall(method, args, gas, deposit))
        if weight:
            made.weights[len(made.actions) - 1] = weight

    def promise_batch_action_transfer(self, promise: int, amount_ptr: int) -> None:
        self.not_in_view("promise_batch_action_transfer")
        self.meter.burn(COSTS.base)
        amount = self.u128(amount_ptr)
        self.meter.action(self.call.parameters.fees.transfer, self._sir(promise))
        self.spend(amount)
        self._append(promise, Transfer(amount))

    def promise_batch_action_stake(self, promise: int, amount_ptr: int, key_len: int, key_ptr: int) -> None:
        self.not_in_view("promise_batch_action_stake")
        self.meter.burn(COSTS.base)
        amount = self.u128(amount_ptr)
        key = self.key(key_len, key_ptr)
        self.meter.action(self.call.parameters.fees.stake, self._sir(promise))
        self._append(promise, Stake(amount, key))

    def promise_batch_action_add_key_with_full_access(self, promise: int, count: int, at: int, nonce: int) -> None:
        self.not_in_view("promise_batch_action_add_key_with_full_access")
        self.meter.burn(COSTS.base)
        key = self.key(count, at)
        self.meter.action(self.call.parameters.fees.add_full_access_key, self._sir(promise))
        self._append(promise, AddKey(key, AccessKey(nonce)))

    def promise_batch_action_add_key_with_function_call(
        self,
        promise: int,
        key_len: int,
        key_ptr: int,
        nonce: int,
        allowance_ptr: int,
        receiver_len: int,
        receiver_ptr: int,
        methods_len: int,
        methods_ptr: int,
    ) -> None:
        self.not_in_view("promise_batch_action_add_key_with_function_call")
        self.meter.burn(COSTS.base)
        key = self.key(key_len, key_ptr)
        allowance = self.u128(allowance_ptr)
        receiver = self.account(receiver_len, receiver_ptr)
        raw = self.given(methods_len, methods_ptr)
        try:
            names = tuple(raw.decode().split(",")) if raw else ()
        except UnicodeDecodeError:
            raise HostFailure("String encoding is bad UTF-8 sequence.") from None
        if any(not name for name in names):
            raise HostFailure("Method name is empty")
        fees, sir = self.call.parameters.fees, self._sir(promise)
        self.meter.action(fees.add_function_call_key, sir)
        self.meter.action(fees.add_function_call_key_byte, sir, sum(len(name.encode()) + 1 for name in names))
        permission = FunctionCallPermission(allowance or None, receiver, names)
        self._append(promise, AddKey(key, AccessKey(nonce, permission)))

    def promise_batch_action_delete_key(self, promise: int, count: int, at: int) -> None:
        self.not_in_view("promise_batch_action_delete_key")
        self.meter.burn(COSTS.base)
        key = self.key(count, at)
        self.meter.action(self.call.parameters.fees.delete_key, self._sir(promise))
        self._append(promise, DeleteKey(key))

    def promise_batch_action_delete_account(self, promise: int, count: int, at: int) -> None:
        self.not_in_view("promise_batch_action_delete_account")
        self.meter.burn(COSTS.base)
        beneficiary = self.account(count, at)
        self.meter.action(self.call.parameters.fees.delete_account, self._sir(promise))
        self._append(promise, DeleteAccount(beneficiary))
