"""Block-STM: the transactions of a block executed speculatively, side by side, with the result of running them in order.

After Gelashvili et al., "Block-STM: Scaling Blockchain Execution by Turning Ordering Curse to a Performance Blessing"
(PPoPP 2023). ``scheduler`` says what to do next, ``memory`` holds what each transaction wrote, ``run`` is a block's way
through both; ``executor`` has batches run by workers and is what a node opens.
"""

from nodewright_aptos.blockstm.executor import open_executor

__all__ = ["open_executor"]
