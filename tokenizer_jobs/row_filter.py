"""Conditions on rows, in a small part of SQL: parsed here, and evaluated by Arrow batch by batch.

    condition := condition OR condition | condition AND condition | NOT condition | ( condition ) | test
    test      := value { = | <> | != | < | <= | > | >= } value | value IS [NOT] NULL | column
               | value [NOT] IN ( literal, ... ) | value [NOT] LIKE 'pattern' | value [NOT] BETWEEN value AND value
    value     := column | "column" | 'text' | number | TRUE | FALSE | NULL

Null behaves as in SQL: a test on it is neither true nor false, and a row is chosen only where the whole is true.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenizer_jobs.errors import ConfigError

__all__ = ["RowFilter"]

UNDERSTOOD = "=, <>, <, <=, >, >=, AND, OR, NOT, IN (...), LIKE, BETWEEN, IS [NOT] NULL, parentheses"
DEEPEST = 50
"""Parentheses and NOTs inside one another."""

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<text>'(?:[^']|'')*')
    |(?P<quoted>"(?:[^"]|"")+")
    |(?P<word>[^\W\d]\w*)
    |(?P<sign><>|!=|<=|>=|[=<>(),+-]))""",
    re.VERBOSE,
)
_WORDS = frozenset({"and", "or", "not", "in", "like", "between", "is", "null", "true", "false"})
_COMPARISONS: dict[str, str] = {
    "=": "equal",
    "<>": "not_equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}

_Evaluate = Callable[[pa.RecordBatch], Any]
"""A batch → a column or a scalar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFilter:
    """A condition that was understood."""

    text: str
    columns: tuple[str, ...]
    """What it reads."""
    _evaluate: _Evaluate

    @classmethod
    def parse(cls, text: str, *, schema: pa.Schema) -> "RowFilter":
        """Understand a condition.

        Args:
            text: In SQL, without WHERE.
            schema: Of the rows; columns of lists and structs cannot be used.

        Raises:
            ConfigError: it is not understood; the message says where, and what is.
        """
        parser = _Parser(text, schema=schema)
        evaluate = parser.whole()
        return cls(text=text, columns=tuple(parser.columns), _evaluate=evaluate)

    def mask(self, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """[rows] where the condition is true."""
        found = self._evaluate(batch)
        if isinstance(found, pa.Scalar):
            return np.full(batch.num_rows, found.as_py() is True)
        return np.asarray(pc.fill_null(found, False).to_numpy(zero_copy_only=False), np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    kind: str
    text: str
    start: int

    @property
    def word(self) -> str:
        """Lower case of a word or sign; empty for literals and quoted names."""
        return self.text.lower() if self.kind in ("word", "sign") else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Value:
    """A column or a literal."""

    type: pa.DataType
    evaluate: _Evaluate
    literal: Any = None
    is_literal: bool = False
    name: str = ""

    def as_type(self, kind: pa.DataType) -> "_Value":
        scalar = pa.scalar(self.literal).cast(kind)
        return _Value(type=kind, evaluate=lambda _: scalar, literal=self.literal, is_literal=True)


class _Parser:
    def __init__(self, text: str, *, schema: pa.Schema) -> None:
        self._text = text
        self._schema = schema
        self._tokens = self._split()
        self._place = 0
        self._depth = 0
        self.columns: dict[str, None] = {}

    def whole(self) -> _Evaluate:
        condition = self._either()
        if self._next.kind != "end":
            raise self._complaint(self._next, "AND, OR or the end")
        return condition

    def _split(self) -> list[_Token]:
        tokens, place = list[_Token](), 0
        text = self._text.rstrip()
        while place < len(text):
            found = _TOKEN.match(text, place)
            if found is None or found.lastgroup is None:
                start = place + len(text[place:]) - len(text[place:].lstrip())
                raise self._complaint(_Token(kind="unknown", text=text[start : start + 12], start=start), "a condition")
            kind = found.lastgroup
            tokens.append(_Token(kind=kind, text=found[kind], start=found.start(kind)))
            place = found.end()
        return [*tokens, _Token(kind="end", text="", start=len(text))]

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place]

    def _take(self, *words: str) -> bool:
        """Step over these words or signs if they come next."""
        ahead = self._tokens[self._place : self._place + len(words)]
        if tuple(token.word for token in ahead) != words:
            return False
        self._place += len(words)
        return True

    def _expect(self, word: str) -> None:
        if not self._take(word):
            raise self._complaint(self._next, word.upper())

    def _either(self) -> _Evaluate:
        found = self._both()
        while self._take("or"):
            found = _joined(pc.or_kleene, found, self._both())
        return found

    def _both(self) -> _Evaluate:
        found = self._negated()
        while self._take("and"):
            found = _joined(pc.and_kleene, found, self._negated())
        return found

    def _negated(self) -> _Evaluate:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ConfigError(f"--where: more than {DEEPEST} parentheses and NOTs inside one another; make it flatter")
        try:
            if self._take("not"):
                return _inverted(self._negated())
            if self._take("("):
                found = self._either()
                self._expect(")")
                return found
            return self._test()
        finally:
            self._depth -= 1

    def _test(self) -> _Evaluate:
        start = self._next
        value = self._value()
        sign = self._next.word
        if sign in _COMPARISONS:
            self._place += 1
            return self._compared(value, self._value(), function=_COMPARISONS[sign], at=start)
        if self._take("is"):
            negated = self._take("not")
            self._expect("null")
            absent: _Evaluate = lambda batch: pc.is_null(value.evaluate(batch))  # noqa: E731
            return _inverted(absent) if negated else absent
        negated = self._take("not")
        if self._take("in"):
            found = self._listed(value, at=start)
        elif self._take("like"):
            found = self._alike(value, at=start)
        elif self._take("between"):
            low = self._value()
            self._expect("and")
            found = _joined(
                pc.and_kleene,
                self._compared(value, low, function="greater_equal", at=start),
                self._compared(value, self._value(), function="less_equal", at=start),
            )
        elif not negated and (pa.types.is_boolean(value.type) or pa.types.is_null(value.type)):
            return value.evaluate if pa.types.is_boolean(value.type) else value.as_type(pa.bool_()).evaluate
        else:
            raise self._complaint(self._next, "a comparison")
        return _inverted(found) if negated else found

    def _listed(self, value: _Value, *, at: _Token) -> _Evaluate:
        self._expect("(")
        found = self._compared(value, self._literal(), function="equal", at=at)
        while self._take(","):
            found = _joined(pc.or_kleene, found, self._compared(value, self._literal(), function="equal", at=at))
        self._expect(")")
        return found

    def _alike(self, value: _Value, *, at: _Token) -> _Evaluate:
        token = self._next
        pattern = self._literal()
        if not pa.types.is_string(pattern.type) or not (
            pa.types.is_string(value.type) or pa.types.is_large_string(value.type)
        ):
            raise self._complaint(token if pa.types.is_string(value.type) else at, "a text on both sides of LIKE")
        parts = (".*" if c == "%" else "." if c == "_" else re.escape(c) for c in pattern.literal)
        expression = rf"(?s)\A(?:{''.join(parts)})\z"
        return lambda batch: pc.match_substring_regex(value.evaluate(batch), expression)

    def _compared(self, left: _Value, right: _Value, *, function: str, at: _Token) -> _Evaluate:
        try:
            left, right = _alike_types(left, right)
            compare = getattr(pc, function)
            compare(pa.array([None], left.type), pa.array([None], right.type))
        except (pa.ArrowException, ValueError) as error:
            one, other = (value.name or repr(value.literal) for value in (left, right))
            raise ConfigError(
                f"--where: {one} ({left.type}) and {other} ({right.type}) cannot be compared, at {at.start + 1}; "
                "texts are in single quotes, numbers are not"
            ) from error
        return lambda batch: compare(left.evaluate(batch), right.evaluate(batch))

    def _literal(self) -> _Value:
        token = self._next
        value = self._value()
        if not value.is_literal:
            raise self._complaint(token, "a literal")
        return value

    def _value(self) -> _Value:
        token = self._next
        self._place += 1
        if token.word in ("-", "+"):
            number = self._next
            if number.kind != "number":
                raise self._complaint(number, "a number")
            self._place += 1
            return _literal_value(_number(token.text + number.text))
        if token.kind == "number":
            return _literal_value(_number(token.text))
        if token.kind == "text":
            return _literal_value(token.text[1:-1].replace("''", "'"))
        if token.word in ("true", "false", "null"):
            return _literal_value({"true": True, "false": False, "null": None}[token.word])
        if token.kind == "quoted" or (token.kind == "word" and token.word not in _WORDS):
            if self._next.word == "(":
                raise self._complaint(token, "a column or a literal: functions are not understood")
            return self._column(token)
        raise self._complaint(token, "a column or a literal")

    def _column(self, token: _Token) -> _Value:
        name = token.text[1:-1].replace('""', '"') if token.kind == "quoted" else token.text
        names = [name] if name in self._schema.names else [n for n in self._schema.names if n.lower() == name.lower()]
        usable = [field.name for field in self._schema if not pa.types.is_nested(field.type)]
        if len(names) != 1 or names[0] not in usable:
            raise ConfigError(
                f"--where: there is no column {name!r} that can be compared, at {token.start + 1}; "
                f"choose of {', '.join(usable)}; texts are in single quotes"
            )
        (name,) = names
        self.columns[name] = None
        return _Value(type=self._schema.field(name).type, evaluate=lambda batch: batch.column(name), name=name)

    def _complaint(self, token: _Token, expected: str) -> ConfigError:
        found = f"{token.text!r} at {token.start + 1}" if token.kind != "end" else "the end"
        return ConfigError(
            f"--where {self._text!r}: expected {expected}, found {found}; what is understood: {UNDERSTOOD}"
        )


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _literal_value(literal: Any) -> _Value:
    try:
        scalar = pa.scalar(literal)
    except (OverflowError, pa.ArrowException):
        scalar = pa.scalar(float(literal))
    return _Value(type=scalar.type, evaluate=lambda _: scalar, literal=literal, is_literal=True)


def _alike_types(left: _Value, right: _Value) -> tuple[_Value, _Value]:
    """Give a literal the type of the column that it stands beside, where that is not a number's own matter."""
    for one, other, swapped in ((left, right, False), (right, left, True)):
        if not one.is_literal or (other.is_literal and not pa.types.is_null(one.type)):
            continue
        kind = other.type
        is_plain_number = pa.types.is_integer(one.type) or pa.types.is_floating(one.type)
        needs_it = (
            pa.types.is_null(one.type)
            or (pa.types.is_string(one.type) and not pa.types.is_string(kind) and not _is_number(kind))
            or (is_plain_number and (pa.types.is_floating(kind) or pa.types.is_decimal(kind)))
        )
        if needs_it:
            one = one.as_type(kind)
        return (other, one) if swapped else (one, other)
    return left, right


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _joined(function: Callable[..., Any], left: _Evaluate, right: _Evaluate) -> _Evaluate:
    return lambda batch: function(left(batch), right(batch))


def _inverted(condition: _Evaluate) -> _Evaluate:
    return lambda batch: pc.invert(condition(batch))
