"""Settings of the whole test suite."""

import os

import pytest

pytest.register_assert_rewrite("outlast.testing")
