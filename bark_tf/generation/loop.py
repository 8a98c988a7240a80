"""The decode loop: a state, a pure step, and a while loop.

A causal stage has two programs: `prefill` reads a prompt and chooses the first token;
`decode` repeats the step until all rows are done or a number of tokens is reached.
Everything that differs between calls (tokens, seeds, temperatures, limits) is a tensor,
so neither is traced twice for the same sizes.

Axes: B rows of the (padded) batch, P prompt slots, S slots of the cache, N capacity of
the output, V ids that may be chosen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from bark_tf.generation.cache import (
    InPlaceLayerCache,
    LayerCache,
    XlaLayerCache,
    extend,
    scatter,
    update_slice,
)
from bark_tf.generation.finite import require
from bark_tf.generation.products import compiled_products, has_gpu
from bark_tf.generation.sampling import SamplingRules, SamplingValues, choose, mark_seen

# On a CPU, XLA would copy every kernel into another layout for the large products of a
# prompt, which takes as much memory as the weights; the plain graph does not.
PREFILL_JIT_COMPILE = False


class AllowedIds(NamedTuple):
    """Which ids the steps of a stage may choose.

    Attributes:
        first: The first id.
        stride: Step t may choose from `first + (t % groups) * stride` on.
        groups: How many groups of ids take turns.
        size: Ids in one group; logits are computed for these only.
        forbidden: (start, end) of positions inside a group that are never chosen.
        end: Position inside a group that ends a row, or None.
        pad: Id that stands in a row after its end.
        open_end: Whether only the last group may use positions from `stride` on.
    """

    first: int
    stride: int
    groups: int
    size: int
    forbidden: tuple[int, int] = (0, 0)
    end: int | None = None
    pad: int = 0
    open_end: bool = False

    @property
    def count(self) -> int:
        """V, ids in all groups."""
        return (self.groups - 1) * self.stride + self.size


class Rows(NamedTuple):
    """What is known about each row before the first token.

    Attributes:
        start: int32 (B,), the first slot of the row's prompt; the slots before it are
            padding.
        keys: uint32 (B, 2), the rows' random keys.
        limit: int32 (B,), maximum number of tokens.
    """

    start: tf.Tensor
    keys: tf.Tensor
    limit: tf.Tensor


class DecodeState(NamedTuple):
    """Everything that changes from step to step.

    Attributes:
        step: int32 (), index of the next token in the output of the stage.
        position: int32 (), slot of the cache for `token`.
        token: int32 (B,), the last tokens.
        done: bool (B,), whether the row has ended.
        failed: bool (B,), whether it ended because logits were NaN or infinite.
        tokens: int32 (B, N), the tokens chosen since the prefill.
        count: int32 (), length of `tokens` so far.
        seen: bool (B, V), ids seen so far; V = 0 when no rule needs them.
        cache: Tuple of `LayerCache`.
    """

    step: tf.Tensor
    position: tf.Tensor
    token: tf.Tensor
    done: tf.Tensor
    failed: tf.Tensor
    tokens: tf.Tensor
    count: tf.Tensor
    seen: tf.Tensor
    cache: tuple

    def checked(self, stage: str) -> DecodeState:
        """The state; raises an error if a row has failed, see `finite.require`."""
        require(~tf.reduce_any(self.failed), f"Logits of the {stage} stage")
        return self

    def shapes(self) -> DecodeState:
        """The shapes of the state, for a loop."""
        return tf.nest.map_structure(lambda tensor: tensor.shape, self)


class Programs:
    """The traced programs of one causal model for one set of ids and rules.

    Args:
        model: A causal model: `token_embedding`, `forward`, `logits`, `config`.
        allowed: Which ids may be chosen.
        rules: Which filters are in use.
        slots: S, positions in the cache.
        jit_compile: Whether decoding is compiled with XLA; without, nothing needs it.
    """

    def __init__(
        self,
        model: Any,
        allowed: AllowedIds,
        rules: SamplingRules,
        slots: int,
        jit_compile: bool,
    ):
        self.model, self.allowed, self.rules = model, allowed, rules
        self.slots, self.jit_compile = slots, jit_compile
        self.stream_dtype = stream_dtype(model)
        self.prefill = tf.function(
            self._prefill, jit_compile=PREFILL_JIT_COMPILE, autograph=False
        )
        self.decode = tf.function(
            self._decode, jit_compile=jit_compile, autograph=False
        )

    def before_prefill(self, batch) -> DecodeState:
        """A state of zeros, for traced loops that read their first prompt later."""
        config, size = self.model.config, self.model.config.head_size
        rows = batch * config.num_heads
        zeros = LayerCache(
            tf.zeros((rows, self.slots, size), self.stream_dtype),
            tf.zeros((rows, size, self.slots), self.stream_dtype),
        )
        return DecodeState(
            step=tf.constant(0),
            position=tf.constant(0),
            token=tf.zeros((batch,), tf.int32),
            done=tf.zeros((batch,), tf.bool),
            failed=tf.zeros((batch,), tf.bool),
            tokens=tf.zeros((batch, self.slots), tf.int32),
            count=tf.constant(0),
            seen=tf.zeros((batch, self.num_seen), tf.bool),
            cache=(zeros,) * config.num_layers,
        )

    @property
    def num_seen(self) -> int:
        """V of `DecodeState.seen`."""
        return self.allowed.count if self.rules.repetition_penalty else 0

    def _prefill(self, embeds, step, rows: Rows, values: SamplingValues, seen):
        """Reads a prompt and chooses the first token after it.

        Args:
            embeds: (B, P, C), embeddings of the prompt without positions.
            step: int32 (), index of the first token in the stage's output.
            rows: `Rows`.
            values: `SamplingValues`.
            seen: bool (B, V), ids seen in the prompt; V = 0 when no rule needs them.

        Returns:
            `DecodeState`.
        """
        batch, length = tf.shape(embeds)[0], tf.shape(embeds)[1]
        places = tf.range(length)[None] - rows.start[:, None]  # (B, P)
        x, cache, _, _ = self.model.forward(
            embeds,
            position_ids=tf.maximum(places, 0),
            padding=places >= 0,
            stream_dtype=self.stream_dtype,
            use_xla=self.jit_compile,
            one_trace=True,
            wanted=lambda states: states[:, -1:],
        )
        state = DecodeState(
            step=step,
            position=length - 1,
            token=tf.zeros((batch,), tf.int32),
            done=rows.limit <= step,
            failed=tf.zeros((batch,), tf.bool),
            tokens=tf.fill((batch, self.slots), self.allowed.pad),
            count=tf.constant(0),
            seen=seen,
            cache=extend(cache, self.slots, self.stream_dtype),
        )
        return self._append(state, x, rows, values, scatter)

    def _decode(self, state: DecodeState, until, rows: Rows, values: SamplingValues):
        """Chooses tokens until index `until`, or until every row is done."""

        def unfinished(state):
            return (state.step < until) & ~tf.reduce_all(state.done)

        def body(state):
            with contextlib.ExitStack() as scopes:
                if self.jit_compile:
                    scopes.enter_context(_held(self.model, state.token))
                    scopes.enter_context(compiled_products())
                return (self._step(state, rows, values),)

        own = XlaLayerCache
        if not self.jit_compile:
            # Not every dtype can be overwritten on a GPU.
            own = LayerCache if has_gpu() else InPlaceLayerCache.copy_of
        state = _with_caches(state, own)
        return _with_caches(tf.while_loop(unfinished, body, (state,))[0], LayerCache)

    def _step(self, state: DecodeState, rows: Rows, values: SamplingValues):
        """Feeds the last token and chooses the next one."""
        x, cache, _, _ = self.model.forward(
            self.model.token_embedding(state.token[:, None]),
            state.cache,
            state.position,
            position_ids=(state.position - rows.start)[:, None],
            padding=tf.range(self.slots)[None] >= rows.start[:, None],
            stream_dtype=self.stream_dtype,
            use_xla=self.jit_compile,
            one_trace=not self.jit_compile,
        )
        write = update_slice if self.jit_compile else scatter
        return self._append(state._replace(cache=cache), x, rows, values, write)

    def _append(self, state: DecodeState, x, rows: Rows, values, write: Callable):
        """Chooses a token from the network's last output and appends it."""
        allowed = self.allowed
        group = state.step % allowed.groups if allowed.groups > 1 else 0
        first = allowed.first + group * allowed.stride
        logits = self.model.logits(x, first, allowed.size)[:, 0]
        logits = tf.cast(logits, tf.float32)
        are_finite = tf.reduce_all(tf.math.is_finite(logits), axis=1)
        failed = state.failed | ~(state.done | are_finite)
        logits = self._filtered(logits, group)
        seen = None
        if self.rules.repetition_penalty:
            seen = tf.slice(state.seen, [0, first - allowed.first], [-1, allowed.size])
        choice = choose(
            logits,
            self.rules,
            values,
            rows.keys,
            state.step,
            seen=seen,
            eos=allowed.end,
        )
        token = tf.where(state.done, allowed.pad, first + choice)
        done = state.done | failed | (state.step + 1 >= rows.limit)
        if allowed.end is not None:
            done |= choice == allowed.end
        new_seen = state.seen
        if self.rules.repetition_penalty:
            new_seen = mark_seen(new_seen, token - allowed.first)
        return state._replace(
            step=state.step + 1,
            position=state.position + 1,
            token=token,
            done=done,
            failed=failed,
            tokens=write(state.tokens, token[:, None], 1, state.count),
            count=state.count + 1,
            seen=new_seen,
        )

    def _filtered(self, logits, group):
        """Logits with -inf for forbidden ids."""
        allowed = self.allowed
        index = tf.range(allowed.size)
        start, end = allowed.forbidden
        never = (index >= start) & (index < end)
        if allowed.open_end:
            never |= (index >= allowed.stride) & (group < allowed.groups - 1)
        elif start == end:
            return logits
        return tf.where(never, -float("inf"), logits)


def _with_caches(state: DecodeState, make: Callable) -> DecodeState:
    return state._replace(cache=tuple(make(*layer) for layer in state.cache))


def programs_of(
    model: Any, allowed: AllowedIds, rules: SamplingRules, slots: int, jit_compile: bool
) -> Programs:
    """The `Programs` of a model, made once for equal arguments."""
    return cached(
        model,
        (allowed, rules, slots, jit_compile),
        lambda: Programs(model, allowed, rules, slots, jit_compile),
    )


def cached(model: Any, key: Any, make: Callable[[], Any]) -> Any:
    """What `make` made for this model and key, the first time.

    It lives as long as the model, so each program is traced and compiled once.
    """
    # Not an attribute, because Keras tracks those.
    programs = vars(model).setdefault("_generation_programs", {})
    if key not in programs:
        programs.setdefault(key, make())  # another thread may have been faster
    return programs[key]


def stream_dtype(model: Any) -> tf.DType:
    """Dtype of activations and caches while decoding.

    On a CPU, half-precision kernels save memory traffic, but all other arithmetic is
    faster and more exact in float32.
    """
    dtype = tf.as_dtype(model.compute_dtype)
    return tf.float32 if dtype.size == 2 and not has_gpu() else dtype


def _held(model: Any, token):
    """A scope that keeps XLA from converting half-precision weights before the loop.

    The loop would then read float32 weights, twice the memory. An optimisation barrier
    that depends on values of the loop prevents it. A GPU multiplies them as they are.
    """
    stream = stream_dtype(model)
    dtypes = ((weight, tf.as_dtype(weight.dtype)) for weight in model.weights)
    weights = [w for w, dtype in dtypes if dtype.size < 4 and dtype != stream]
    if not weights:
        return contextlib.nullcontext()
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    values = [token, *(weight.value for weight in weights)]
    held = gen_xla_ops.xla_optimization_barrier(input=values)[1:]
    return keras.StatelessScope(state_mapping=list(zip(weights, held, strict=True)))
