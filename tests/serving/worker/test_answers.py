"""What is answered counts as settled when Redis has confirmed it: until then a reader must know the entry."""

from serving.engine.errors import EngineError
from serving.resp import Address
from serving.worker.answers import Answers
from serving.worker.received import Entry
from tests.serving.worker.plant import PREFIX, Server

ID = b"0123456789abcdef"


def make_answers(server: Server) -> Answers:
    answers = Answers(Address.parse(server.url), PREFIX, "w1", 1 << 20)
    answers.recover()
    return answers


def answer_one(answers: Answers) -> Entry:
    entry = Entry(f"{PREFIX}q:m@1:0", b"1-1", "g1", 1, (ID,))
    answers.refuse(entry, [ID], EngineError("no"))
    return entry


def test_an_entry_is_settled_by_the_confirmation_not_by_the_write(server: Server) -> None:
    answers = make_answers(server)
    entry = answer_one(answers)
    assert (entry.left, entry.settled) == (0, False)
    answers.flush()
    assert entry.settled
    answers.close()


def test_what_was_written_into_a_broken_connection_is_settled_after_the_next(server: Server) -> None:
    answers = make_answers(server)
    answers.close()
    entry = answer_one(answers)
    answers.recover()
    assert (entry.left, entry.settled) == (0, False)
    answers.flush()
    assert entry.settled
    answers.close()


def test_with_another_server_everything_is_settled(server: Server) -> None:
    answers = make_answers(server)
    answers.close()
    entry = answer_one(answers)
    server.kill()
    server.start()
    answers.recover()
    assert entry.settled
    answers.close()
