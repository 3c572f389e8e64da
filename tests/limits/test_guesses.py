"""Guessing at passwords: what shuts out a guesser, and what must not shut out anybody else."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.limits.guesses import Guesses


class GuessesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.guesses = Guesses(self.clock, per_address=(3, 300.0), per_user=(5, 500.0))

    def test_an_address_that_guesses_is_shut_out_for_a_while(self) -> None:
        for number in range(3):
            self.assertEqual(self.guesses.exceeded("192.0.2.1", f"user{number}"), "")
            self.guesses.failed("192.0.2.1", f"user{number}")
        self.assertEqual(self.guesses.exceeded("192.0.2.1", "somebody"), "address")
        self.assertEqual(self.guesses.exceeded("192.0.2.2", "somebody"), "")
        self.clock.advance(100)
        self.assertEqual(self.guesses.exceeded("192.0.2.1", "somebody"), "")

    def test_many_addresses_that_guess_at_one_user_are_shut_out(self) -> None:
        for number in range(5):
            self.guesses.failed(f"192.0.2.{number}", "ann")
        self.assertEqual(self.guesses.exceeded("192.0.2.99", "ann"), "user")
        self.assertEqual(self.guesses.exceeded("192.0.2.99", "bob"), "")

    def test_a_user_gets_in_from_where_they_were_before(self) -> None:
        self.guesses.succeeded("198.51.100.1", "ann")
        for number in range(5):
            self.guesses.failed(f"192.0.2.{number}", "ann")
        self.assertEqual(self.guesses.exceeded("198.51.100.1", "ann"), "")
        for _ in range(3):
            self.guesses.failed("198.51.100.1", "ann")
        self.assertEqual(self.guesses.exceeded("198.51.100.1", "ann"), "address")

    def test_one_machine_has_a_whole_network_of_ipv6(self) -> None:
        for number in range(3):
            self.guesses.failed(f"2001:db8::{number}")
        self.assertEqual(self.guesses.exceeded("2001:db8::ffff"), "address")
        self.assertEqual(self.guesses.exceeded("2001:db8:0:1::1"), "")

    def test_a_unix_socket_counts_users_only(self) -> None:
        for _ in range(4):
            self.guesses.failed("", "ann")
        self.assertEqual(self.guesses.exceeded("", "bob"), "")
        self.guesses.failed("", "ann")
        self.assertEqual(self.guesses.exceeded("", "ann"), "user")
        self.assertEqual(self.guesses.refused, 1)
