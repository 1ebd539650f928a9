"""The messages of the library's extension, which its server and its clients share."""

from __future__ import annotations

from typing import Literal

import mcp.types as types

LOANS = "example.com/loans"


class LoanStatusParams(types.RequestParams):
    """Whose loans, and how many of them."""

    reader: str
    limit: int = 2


class LoanStatus(types.Result):
    """What somebody has borrowed."""

    books: list[str]


class LoanStatusRequest(types.Request[LoanStatusParams, Literal["example.com/loans.status"]]):
    """Ask what somebody has borrowed."""

    method: Literal["example.com/loans.status"] = "example.com/loans.status"
    params: LoanStatusParams


class Ticket(types.Result):
    """What a tool answers with instead of its result."""

    result_type: Literal["ticket"] = "ticket"
    ticket_number: int
