"""What a server said: its crashes in every language, and what may be shown of it."""

from __future__ import annotations

import pytest

from instance_manager.observability.heard import Heard
from instance_manager.postgres.endings import Said

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
