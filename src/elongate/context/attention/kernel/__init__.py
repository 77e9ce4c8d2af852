r"""The machinery that computes any attention pattern without a length × length mask. Start with layout.py.

A pattern (context/attention/attention.py) describes one document. A layout applies it to every document of a batch. The
kernel runs torch's fused operator once per block and merges the results by their log-sum-exp:

    Region                        Layout                         kernel calls (attend.py)
    blocks of one document        packed documents, a chunk      one operator call per block

        keys                      row 0 | doc a | doc b    |     BatchedRegion of the window
      +--------+                  row 1 | doc c      | d   |       KernelCall row 0: blocks --+
    q |\       |                                                   KernelCall row 1: blocks --+
    u | \      |  window: \       for each region, shift the     BatchedRegion of the sinks   +-- merge --> out, lse
    e |# \     |  sinks:  #       blocks to the start of each      KernelCall row 0: blocks --+
    r |## \    |                  document, and cut them to        KernelCall row 1: blocks --+
    y |###     |                  the chunk that is computed
      +--------+                                                 (a single call if all rows have the same blocks)

blocks.py         block lists of one document, pure functions of lengths
layout.py         documents, chunk and positions of one call of the network; builds the batched regions
attend.py         runs the blocks of batched regions, forward and backward, and merges them
operators.py      one block: the choice of its operator
fused.py          torch's fused operators of each device
definition.py     the definition, where no fused operator applies
tensors.py        the tensors of a block
interface.py      the kernel as an attention implementation of transformers
kv_store.py       keys, values, their gradients and outputs, stored between two passes over a sequence
kv_cache.py       keys and values of a text that is written token by token
verification.py   compares the kernel in a layout with the dense definition
"""
