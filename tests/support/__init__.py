"""Fakes, stubs and recordings for the tests."""
