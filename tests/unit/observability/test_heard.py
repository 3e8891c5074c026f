"""What a server said: its crashes in every language, and what may be shown of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from instance_manager.observability.heard import Heard
from instance_manager.postgres.endings import Said, said_on_stderr

CYCLES = [
    (
        "client backend (PID 28170) was terminated by signal 9: Killed",
        "terminating any other active server processes",
        "all server processes terminated; reinitializing",
    ),
    (
        "Serverprozess (PID 7295) wurde von Signal 9 beendet: Getötet",
        "aktive Serverprozesse werden abgebrochen",
        "alle Serverprozesse beendet; initialisiere neu",
    ),
    (
        "processus serveur (PID 7520) a été arrêté par le signal 9 : Processus arrêté",
        "arrêt des autres processus serveur actifs",
        "tous les processus serveur sont arrêtés ; réinitialisation",
    ),
    (
        "サーバープロセス (PID 7614)はシグナル9で終了しました: 強制終了",
        "他の活動中のサーバープロセスを終了しています",
        "全てのサーバープロセスが終了しました: 再初期化しています",
    ),
    (
        "服务器进程 (PID 7677) 被信号 9 中断: 已杀死",
        "中断任何其它已激活的服务器进程",
        "所有的服务器进程被中止; 重新初始化",
    ),
    (
        "процесс сервера (PID 15219) был завершён по сигналу 9: Убито",
        "завершение всех остальных активных серверных процессов",
        "все серверные процессы завершены... переинициализация",
    ),
]


class Listener:
    """What was heard, and the crashes that it told."""

    def __init__(self) -> None:
        self.crashes: list[str] = []
        self.all = Heard(self.crashes.append)

    def own(self, *messages: str, severity: str = "LOG") -> None:
        for message in messages:
            self.all.hear(Said("postmaster", severity, None, message), 1)

    def startup(self, pid: int, *messages: str, severity: str = "LOG") -> None:
        for message in messages or ("database system was interrupted",):
            self.all.hear(Said("startup", severity, "53100", message), pid)

    def panic(self, speaker: str = "client backend") -> None:
        self.all.hear(Said(speaker, "PANIC", "53100", "could not write"), 99)


@pytest.mark.parametrize("cycle", CYCLES)
def test_a_crash_is_told_once_in_every_language(cycle: tuple[str, ...]) -> None:
    """Two startup processes of one postmaster are a crash, whatever the words are."""
    heard = Listener()
    heard.own("database system is starting")
    heard.startup(10, "first", "second", "third")
    heard.own("database system is ready", *cycle)
    assert heard.crashes == []
    heard.startup(11, "first", "second", "third")
    heard.own("database system is ready")

    assert heard.crashes == [cycle[0]]
    assert heard.all.kills_survived == 1


def test_each_crash_is_told_with_its_own_sentence() -> None:
    """Three crashes are three, and only a signal 9 can be the kernel's for want of memory."""
    heard = Listener()
    sentences = [
        "client backend (PID 9) was terminated by signal 6: Aborted",
        "io worker (PID 1996) was terminated by signal 9: Killed",
        "checkpointer process (PID 99) was terminated by signal 19: Stopped",
        "WAL writer process (PID 1813) exited with exit code 99",
    ]
    heard.startup(10)
    for pid, sentence in enumerate(sentences, 11):
        heard.own(sentence, *CYCLES[0][1:])
        heard.startup(pid)

    assert heard.crashes == sentences
    assert heard.all.kills_survived == 1


def test_a_process_that_is_replaced_is_no_crash() -> None:
    """The logging collector comes back alone; so does a worker that ends with code 1."""
    heard = Listener()
    heard.startup(10)
    heard.own(
        "system logger process (PID 4533) was terminated by signal 9: Killed",
        'background worker "logical replication launcher" (PID 22206) exited with exit code 1',
    )

    assert heard.crashes == []


def test_a_crash_without_a_sentence_is_told_too() -> None:
    """Its words may be lost; that it happened is not."""
    heard = Listener()
    heard.startup(10)
    heard.startup(11)

    assert heard.crashes == [""]
    assert heard.all.kills_survived == 0


def test_a_failed_startup_process_is_the_end_and_no_crash() -> None:
    """There is no second one."""
    heard = Listener()
    heard.startup(10, "could not write", severity="FATAL")
    heard.own("startup process (PID 10) exited with exit code 1", *CYCLES[0][1:])

    assert heard.crashes == []
    assert heard.all.words.other == Said("startup", "FATAL", "53100", "could not write")


def test_a_panic_is_forgotten_when_the_server_has_survived_it() -> None:
    """It does not explain an end that comes later."""
    heard = Listener()
    heard.startup(10)
    heard.panic()
    assert heard.all.words.other is not None
    heard.startup(11)

    assert heard.all.words.other is None


def test_the_failure_of_a_session_is_not_the_servers() -> None:
    """Neither a session's end nor a statement's error ends a server."""
    heard = Listener()
    for severity in ("FATAL", "ERROR", "LOG"):
        heard.all.hear(Said("client backend", severity, "53100", "no space"), 5)

    assert heard.all.words.other is None


def test_a_hundred_panics_do_not_push_out_what_the_postmaster_said() -> None:
    """A full disk makes every backend panic at once."""
    heard = Listener()
    heard.own("the reason")
    for _ in range(1000):
        heard.panic()

    assert [said.message for said in heard.all.words.own] == ["the reason"]


def test_the_tail_is_bounded_and_of_the_postmaster_alone() -> None:
    """Fifty lines of two hundred characters, each one line, and nothing that may hold data."""
    heard = Listener()
    heard.own("secret", severity="WARNING")
    heard.startup(10, "secret")
    heard.panic()
    for number in range(100):
        heard.own(f"{number} {'x' * 300}\nand more")
    heard.own("short\n  and\tmore", severity="FATAL")
    tail = heard.all.tail()

    assert len(tail) == 50
    assert tail[0] == f"LOG: 51 {'x' * 192}"
    assert tail[-1] == "FATAL: short and more"
    assert all(len(line) <= 200 and "\n" not in line for line in tail)


def test_words_of_another_language_have_no_place_in_the_tail() -> None:
    """Where the severity can't be told, the message may be a detail."""
    heard = Listener()
    heard.all.hear(Said("postmaster", "", "F0000", ""))

    assert heard.all.tail() == ()
    assert len(heard.all.words.own) == 1


SAID_BEFORE_ENDS = Path(__file__).parents[1] / "postgres" / "endings_on_stderr.yaml"


def shown(message: str, severity: str = "LOG", code: str | None = None) -> str:
    """Return what is shown of a message of the postmaster."""
    heard = Heard(lambda _: None)
    heard.hear(Said("postmaster", severity, code, message))
    assert heard.tail() == (" ".join(f"{severity}: {heard.words.own[0].message}".split())[:200],)
    return heard.words.own[0].message


@pytest.mark.parametrize("case", yaml.safe_load(SAID_BEFORE_ENDS.read_text()))
def test_messages_that_tell_why_a_server_ended_stay_whole(case: dict[str, Any]) -> None:
    """Parameters, paths, libraries and tokens are named in quotes, and people need them."""
    for line in case["said"]:
        said = said_on_stderr(line)
        if said is not None:
            assert shown(said.message, said.severity, said.code) == said.message


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('listening on Unix socket "/run/postgresql/.s.PGSQL.5432"', None),
        ('listening on IPv6 address "::1", port 5432', None),
        ('background worker "logical replication launcher" (PID 22206) exited with code 1', None),
        ("Background-Worker »logical replication launcher« (PID 22206) beendet", None),
        ('parameter "port" cannot be changed without restarting the server', "55P02"),
        ('parameter "work_mem" removed from configuration file, reset to default', None),
        (f'could not load library "/{"very/" * 40}long+1.so": no such file', "58P01"),
        ('could not access file "$libdir/pg_stat_statements": No such file', "58P01"),
        ("could not fetch http://127.0.0.1:8080/status of primary:5432", None),
    ],
)
def test_messages_that_name_something_stay_whole(message: str, code: str | None) -> None:
    """Names, paths and addresses are no secrets."""
    assert shown(message, code=code) == message


@pytest.mark.parametrize(
    ("message", "left"),
    [
        ('parameter "{}" changed to "{}"', 'parameter "{}" changed to "…"'),
        ("Parameter »{}« auf »{}« gesetzt", "Parameter »{}« auf »…«"),
        ("paramètre « {} » modifié par « {} »", "paramètre « {} » modifié par «…»"),
        ("el parámetro «{}» fue cambiado a «{}»", "el parámetro «{}» fue cambiado a «…»"),
        ('パラメータ"{}"は"{}"に変更されました', 'パラメータ"{}"は"…"'),
        ("ustawiono „{}” na „{}”", "ustawiono „{}” na „…“"),
        ("参数“{}”被改为“{}”", "参数“{}”被改为“…”"),
        ("參數「{}」被改為「{}」", "參數「{}」被改為「…」"),
    ],
)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("primary_conninfo", "host=primary user=rep password=hunter2"),
        ("archive_command", 'curl -u "bob:hunter2" "https://a/%f"'),
        ("restore_command", 'x"hunter2'),
        ("ssl_passphrase_command", "echo hunter2\nand more"),
        ("my.token", "hunter2"),
    ],
)
def test_the_value_of_a_changed_parameter_is_never_shown(
    message: str, left: str, name: str, value: str
) -> None:
    """Whatever the language, and whatever the value looks like."""
    assert shown(message.format(name, value)) == left.format(name)
    before, secret, _ = message.format(name, value).partition("hunter2")
    assert secret not in shown(before + secret), "a message that was cut"


@pytest.mark.parametrize(
    ("message", "left"),
    [
        (
            'invalid value for parameter "primary_conninfo": "user=rep password=hunter2 port=x"',
            'invalid value for parameter "primary_conninfo": "…"',
        ),
        (
            'command "curl -u "bob:hunter2" x" failed: exit code 1',
            'command "…" failed: exit code 1',
        ),
        ('unterminated "curl -u bob:hunter2 and mo', 'unterminated "…"'),
        ('odd "a b"hunter2"c d"', 'odd "…"'),
        (
            "bad connection string: password = 'hunt\\'er2 x' host=a",
            "bad connection string: password = … host=a",
        ),
        ("bad PGPASSWORD=hunter2\\ 3 host=a", "bad PGPASSWORD=… host=a"),
        ("bad sslpassword=hunter2;ldapbindpasswd=hunter2", "bad sslpassword=…"),
        (
            "cannot use postgresql://rep:hunt@er2@primary:5432/db here",
            "cannot use postgresql://rep:…@primary:5432/db here",
        ),
        (
            'cannot use "postgresql://rep:hunter2@primary/db?sslmode=require" here',
            'cannot use "…" here',
        ),
    ],
)
@pytest.mark.parametrize("severity", ["FATAL", "PANIC"])
def test_secrets_in_other_messages_are_not_shown(message: str, left: str, severity: str) -> None:
    """Connection strings, commands and URIs lose theirs; the rest stays."""
    assert shown(message, severity, "22023") == left


def test_the_failure_of_another_process_is_remembered_without_secrets() -> None:
    """It may become the cause of the end."""
    heard = Listener()
    heard.startup(10, "cannot connect: password=hunter2", severity="FATAL")

    assert heard.all.words.other == Said("startup", "FATAL", "53100", "cannot connect: password=…")


@given(st.text("ab \"«»„“”「」=/:@\\'", max_size=60), st.sampled_from(["LOG", "FATAL"]))
def test_a_value_in_double_quotes_is_hidden_whatever_it_holds(value: str, severity: str) -> None:
    """Quotes of any kind within it show none of its spaced words."""
    said = shown(f'command "hunter2 {value} hunter2" failed', severity)

    assert "hunter2" not in said
