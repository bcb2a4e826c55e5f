"""faults.py - a client under faults: a process that works through a proxy of its own and is disturbed at
drawn moments of its work, and killed and started again.

What a fault is, and when it comes, is drawn from the seed; the moments are the client's own lines
("begin 17"), never a clock."""

import contextlib
import signal
import subprocess
import threading

import support

# Faults of one transaction. `late` is forwarded when others have done so many more: it lands
# afterwards, perhaps after the client was told "unknown", perhaps after its death.
KINDS = ("lose", "cut", "cut_early", "status", "late", "late_unknown", "lose_unknown", "blackout", "damage",
         "short", "slow", "slow_answer", "kill", "kill_put", "kill_answer", "kill_late")
one_pause = threading.Lock()


def draw(dice, count, share, kinds=KINDS):
    """{transaction: fault} for one client."""
    chosen = dice.sample(range(1, count), min(count - 1, max(1, round(count * share))))
    return {n: dice.choice(kinds) for n in chosen}


class Player:
    """One client, from its first process to its last."""

    def __init__(self, case, who, command, plan, dice):
        """command(turn, first) -> the arguments of a process that begins with transaction `first`."""
        self.case, self.who, self.command, self.plan, self.dice = case, who, command, plan, dice
        self.proxy = case.proxy()
        self.child = None
        self.turn = 0
        self.away = []                  # late PUTs: [(rule, until the transaction)]
        self.during = []                # rules that end with the transaction
        self.waiting = []               # threads that kill when a request has come
        self.did = []                   # faults that came
        self.begun, self.over = 0, False
        self.others = []                # on other replicas: who go on while this one waits

    def start(self, first):
        self.turn += 1
        self.child = subprocess.Popen([support.PYTHON, *map(str, self.command(self.turn, first))],
                                      env=support.child_env(), stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=self.case.errors, text=True)

    def play(self):
        """To the end of its work."""
        try:
            self.work()
        finally:
            self.over = True

    def work(self):
        self.start(0)
        n = -1
        while True:
            line = self.child.stdout.readline()
            word, _, number = line.strip().partition(" ")
            if word == "begin":
                n = int(number)
                self.begun += 1
                self.release(n)
                self.fault(self.plan.get(n), n)
            elif word == "inside":
                self.dawdle()
            elif line:
                self.calm()
            else:
                status = self.ended()
                if status == 0:
                    return
                if status != -9:
                    raise AssertionError(f"client {self.who} ended with {status}")
                self.start(n + 1)

    def ended(self):
        status = self.child.wait(support.DEADLINE)
        self.calm()
        for thread in self.waiting:
            thread.join()
        self.waiting = []
        support.close(self.child)
        return status

    def stop(self):
        if self.child and self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        for rule, _ in self.away:
            rule.release()

    def calm(self):
        """What belongs to one transaction ends with it; a rule that never came is taken back."""
        for rule in self.during:
            rule.count = 0
        self.during = []

    def release(self, n):
        for entry in list(self.away):
            if entry[1] <= n or not entry[0].hits:
                self.away.remove(entry)
                if entry[0].hits:
                    entry[0].release()

    def all_landed(self):
        """After the last transaction: what is still on its way arrives."""
        self.release(1 << 60)

    def fault(self, kind, n):
        if kind is None:
            return
        self.did.append(kind)
        getattr(self, kind)(n)

    def rule(self, action, *args, **match):
        rule = getattr(self.proxy, action)(*args, **match)
        self.during.append(rule)
        return rule

    # The faults.
    def lose(self, _n):
        self.rule("lose", method="PUT", count=self.dice.randint(1, 2))

    def cut(self, _n):
        self.rule("cut", count=self.dice.randint(1, 3), nth=self.dice.randint(1, 2))

    def cut_early(self, _n):
        self.rule("cut", after_body=False, method="PUT")

    def status(self, _n):
        self.rule("status", self.dice.choice((429, 500, 503)), count=self.dice.randint(1, 2),
                  nth=self.dice.randint(1, 2))

    def damage(self, _n):
        self.rule("flip", self.dice.randint(0, 300), method="GET", key=r"\.(ltx|db)$")

    def short(self, _n):
        self.rule("truncate", self.dice.randint(0, 100), method="GET", count=1)

    def late(self, n):
        """Cut off now; its repetition overtakes it."""
        rule = self.rule("late", method="PUT")
        self.away.append((rule, n + self.dice.randint(1, 4)))

    def late_unknown(self, n):
        """No answer until the deadline; it lands some time after that."""
        self.late(n)
        self.rule("cut", method=self.dice.choice(("PUT", None)), count=None)

    def lose_unknown(self, _n):
        """It lands at once, and nothing is answered until the deadline."""
        lost = self.rule("lose", method="PUT")
        silence = self.rule("cut", count=None)
        silence.fires = lambda _request: lost.hits > 0 and silence.count is None

    def blackout(self, _n):
        self.rule("cut", count=None)

    def slow(self, _n):
        """Others do some more while the PUT is on its way."""
        self.slowly(self.rule("hold", method="PUT"))

    def slow_answer(self, _n):
        """It landed; others go on from it before its answer comes."""
        self.slowly(self.rule("hold_answer", method="PUT"))

    def slowly(self, rule):
        child, more = self.child, self.dice.randint(2, 15)

        def over():
            return rule.count == 0 or child.poll() is not None

        def wait():
            support.until(lambda: rule.hits or over())
            self.until_others(self.progress() + more, over)
            rule.release()

        self.begin(wait)

    def pause(self, _n):
        """Stopped wherever it is, until others have done some more; one at a time, or all would wait for
        each other."""
        child, goal = self.child, self.progress() + self.dice.randint(1, 12)
        if not one_pause.acquire(blocking=False):
            return
        child.send_signal(signal.SIGSTOP)

        def wait():
            try:
                self.until_others(goal, lambda: False)
            finally:
                child.send_signal(signal.SIGCONT)
                one_pause.release()

        self.begin(wait)

    def dawdle(self):
        """It waits within a transaction, with its locks, until others have done some more."""
        child, goal = self.child, self.progress() + self.dice.randint(1, 6)
        alone = one_pause.acquire(blocking=False)

        def wait():
            try:
                if alone:
                    self.until_others(goal, lambda: child.poll() is not None)
            finally:
                if alone:
                    one_pause.release()
                with contextlib.suppress(BrokenPipeError):
                    support.tell(child)

        self.did.append("dawdle")
        self.begin(wait)

    def progress(self):
        return sum(other.begun for other in self.others)

    def until_others(self, goal, over):
        support.until(lambda: self.progress() >= goal or all(other.over for other in self.others)
                      or over())

    def begin(self, wait):
        self.waiting.append(threading.Thread(target=wait))
        self.waiting[-1].start()

    def kill(self, _n):
        """Wherever it is."""
        self.child.kill()

    def kill_put(self, _n):
        """While its PUT is under way; the PUT lands."""
        self.kill_at(self.rule("hold", method="PUT"), True)

    def kill_answer(self, _n):
        """When it has landed, before the answer."""
        self.kill_at(self.rule("hold_answer", method="PUT"), True)

    def kill_late(self, n):
        """While its PUT is under way, which lands some transactions later."""
        rule = self.rule("late", method="PUT")
        self.rule("hold", method="PUT")         # its repetition never comes
        self.away.append((rule, n + self.dice.randint(1, 3)))
        self.kill_at(rule, False)

    def kill_at(self, rule, release):
        child = self.child

        def wait():
            support.until(lambda: rule.hits or rule.count == 0 or child.poll() is not None)
            if rule.hits:
                child.kill()
                child.wait()
            if release:
                rule.release()

        self.begin(wait)


def play_all(players):
    """All at once; raises what went wrong in any."""
    failed = []

    def run(player):
        try:
            player.play()
        except BaseException as error:  # noqa: B902  (raised by the test)
            failed.append(error)

    threads = [threading.Thread(target=run, args=(player,)) for player in players]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for player in players:
        player.all_landed()
    if failed:
        raise failed[0]
