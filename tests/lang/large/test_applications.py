"""test_applications.py - applications from Debian that use SQLite and were not written for r2vfs.

Each is run with r2vfs-preload.so in it against Cloudflare's R2 emulator: used, its local data deleted,
used again, data there. What the applications have in common is in Application."""

import base64
import concurrent.futures
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
import support  # noqa: E402
from support import need, until  # noqa: E402

PRELOAD = os.path.join(os.path.dirname(support.SO), "r2vfs-preload" + support.SUFFIX)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def fetch(url, **form):
    data = urllib.parse.urlencode(form).encode() if form else None
    with urllib.request.urlopen(url, data, timeout=support.DEADLINE) as answer:
        return answer.read().decode()


def answers(url):
    try:
        fetch(url)
    except OSError:
        return False
    return True


def adopt():
    """What daemons leave behind becomes ours, so that it can be waited for."""
    PR_SET_CHILD_SUBREAPER = 36
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def wait_for_all():
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


class Application(support.Case):
    def setUp(self):
        super().setUp()
        need("r2vfs-preload" + support.SUFFIX, os.path.exists(PRELOAD))
        self.data = self.path("data/x")[:-2]
        self.env = support.child_env({
            "LD_PRELOAD": PRELOAD, "R2VFS_ROOT": self.data, "HOME": self.path("home/x")[:-2],
            "R2VFS_REMOTE": f"s3://{self.bucket.name}/{self.prefix}"})

    def run_it(self, *command, status=0, **more):
        done = subprocess.run(command, env=self.env, capture_output=True, text=True,
                              timeout=support.DEADLINE, **more)
        if done.returncode != status:
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}"
                                 f"{done.stderr}")
        self.assertNotIn("r2vfs", done.stderr)
        return done.stdout

    def delete_local_data(self):
        """All of it: the databases and what r2vfs has beside them."""
        shutil.rmtree(self.data)
        os.makedirs(self.data)

    def stored(self, name, sql):
        """What a query finds in the object, which is read without r2vfs."""
        body = self.bucket.get(f"{self.prefix}/{name}").body
        self.assertEqual(support.integrity_of_bytes(body), "ok")
        path = self.path("copy.db")
        with open(path, "wb") as file:
            file.write(body)
        db = support.plain(path)
        try:
            return db.execute(sql).fetchall()
        finally:
            db.close()


class Newsboat(Application):
    """A feed reader for the terminal: what was read and fetched is in cache.db."""

    FEED = """<?xml version="1.0"?><rss version="2.0"><channel><title>News</title>
        <link>http://localhost/</link><description>none</description>{}</channel></rss>"""
    ITEM = "<item><title>Article {0}</title><link>http://localhost/{0}</link><guid>{0}</guid></item>"

    def newsboat(self, command):
        return self.run_it("newsboat", "-q", "-C", "/dev/null", "-u", self.path("urls"), "-c",
                           os.path.join(self.data, "cache.db"), "-x", command)

    def publish(self, *numbers):
        with open(self.path("feed.xml"), "w") as file:
            file.write(self.FEED.format("".join(self.ITEM.format(n) for n in numbers)))

    def test(self):
        need("newsboat", shutil.which("newsboat"))
        with open(self.path("urls"), "w") as file:
            file.write(f"file://{self.path('feed.xml')}\n")
        self.publish(1, 2)
        self.newsboat("reload")
        self.assertEqual(self.newsboat("print-unread"), "2 unread articles\n")
        self.assertEqual(self.stored("cache.db", "SELECT title FROM rss_item ORDER BY 1"),
                         [("Article 1",), ("Article 2",)])
        self.delete_local_data()
        self.publish(3)                     # the old articles exist nowhere else
        self.newsboat("reload")
        self.assertEqual(self.newsboat("print-unread"), "3 unread articles\n")
        self.assertEqual(self.stored("cache.db", "SELECT count(*) FROM rss_item"), [(3,)])


class Bogofilter(Application):
    """A mail filter: what it was taught about spam is in wordlist.db."""

    SPAM = "Subject: cheap pills\n\nlottery casino million winner pills click cheap\n"
    MAIL = "Subject: review tomorrow\n\nthe project report and the meeting notes, please review\n"

    def bogofilter(self, *options, mail, status=0):
        self.run_it("bogofilter-sqlite", "-d", self.data, *options, input=mail, status=status)

    def test(self):
        need("bogofilter-sqlite", shutil.which("bogofilter-sqlite"))
        unsure, spam, ham = 2, 0, 1
        self.bogofilter("-s", mail=self.SPAM)
        self.bogofilter("-n", mail=self.MAIL)
        self.delete_local_data()
        self.bogofilter(mail=self.SPAM, status=spam)
        self.bogofilter(mail=self.MAIL, status=ham)
        self.bogofilter(mail="Subject: spam\n\nxyzzy plugh\n", status=unsure)
        self.bogofilter("-s", mail="Subject: xyzzy\n\nxyzzy plugh xyzzy plugh\n")
        self.delete_local_data()
        with open(os.path.join(self.data, "wordlist.db"), "w"):
            pass                            # bogoutil looks whether it is there before it opens it
        words = self.run_it("bogoutil-sqlite", "-w", self.data, "pills", "meeting", "xyzzy")
        self.assertRegex(words, r"pills +1 +0\n")
        self.assertRegex(words, r"meeting +0 +1\n")
        self.assertRegex(words, r"xyzzy +1 +0\n")
        self.assertEqual(self.bucket.list(self.prefix), [self.prefix + "/wordlist.db"])


class MiniDlna(Application):
    """A media server, a daemon that forks: what it knows about the media is in files.db, which it
    writes with journal_mode=OFF."""

    JPEG = base64.b64decode(
        "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAP////////////////////////////////////////////////////////////"
        "//////////////////////////wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAA//EABQQAQAAAAAAAAAAAAAA"
        "AAAAAAD/2gAIAQEAAD8AN//Z")

    def images(self):
        page = fetch(self.url)
        return int(page.partition("Image files</td><td>")[2].partition("<")[0])

    def serve(self, images):
        """Start it, wait until it has so many images, end it in order."""
        adopt()
        pid_file = self.path("pid")
        self.run_it("minidlnad", "-f", self.path("conf"), "-P", pid_file)
        until(lambda: answers(self.url))
        with open(pid_file) as file:
            pid = int(file.read())
        try:
            until(lambda: self.images() == images)
        finally:
            os.kill(pid, signal.SIGTERM)
            wait_for_all()

    def test(self):
        need("minidlnad", shutil.which("minidlnad") or os.path.exists("/usr/sbin/minidlnad"))
        self.env["PATH"] += ":/usr/sbin"
        self.url = f"http://127.0.0.1:{free_port()}/"
        media = self.path("media/holiday.jpg")
        with open(media, "wb") as file:
            file.write(self.JPEG)
        with open(self.path("conf"), "w") as file:
            file.write(f"media_dir=P,{os.path.dirname(media)}\ndb_dir={self.data}\n"
                       f"log_dir={self.folder}\nport={self.url.split(':')[2][:-1]}\n"
                       f"network_interface=lo\ninotify=no\n")
        self.serve(1)
        self.assertEqual(self.stored("files.db", "SELECT title FROM details WHERE path = "
                                     f"'{media}'"), [("holiday",)])
        self.delete_local_data()
        os.remove(media)                    # only the database in R2 knows of it
        self.serve(1)
        self.assertTrue(os.path.exists(os.path.join(self.data, "files.db")))


class MediaWiki(Application):
    """Wikipedia's web application, in PHP: four processes serve, pages are in my_wiki.sqlite."""

    HOME = "/usr/share/mediawiki"

    def install(self):
        os.mkdir(self.path("conf"))
        self.run_it("php", self.HOME + "/maintenance/install.php", "--dbtype", "sqlite", "--dbpath",
                    self.data, "--confpath", self.path("conf"), "--scriptpath", "", "--server",
                    self.url, "--pass", "not so secret 1", "Wiki", "Admin")
        with open(self.path("conf/LocalSettings.php"), "a") as file:
            file.write("$wgRateLimits = [];\n")     # else eight edits a minute
        self.env["MW_CONFIG_FILE"] = self.path("conf/LocalSettings.php")

    def start(self):
        adopt()
        self.log = open(self.path("log"), "w")
        self.addCleanup(self.log.close)
        self.server = subprocess.Popen(
            ["php", "-S", self.url.partition("//")[2], "-t", self.HOME], stdout=self.log,
            stderr=self.log, start_new_session=True,
            env={**self.env, "PHP_CLI_SERVER_WORKERS": "4"})
        self.addCleanup(self.stop)
        until(lambda: answers(self.url + "/README"))

    def stop(self):
        if self.server.returncode is None:
            os.killpg(self.server.pid, signal.SIGTERM)
            self.server.wait(support.DEADLINE)
            wait_for_all()
        with open(self.path("log")) as log:
            self.assertNotIn("r2vfs", log.read())

    def write(self, number):
        done = json.loads(fetch(self.url + "/api.php", action="edit", title=f"Page {number}",
                                text=f"Text number {number}.", format="json", token="+\\"))
        self.assertEqual(done.get("edit", {}).get("result"), "Success", done)

    def read(self, number):
        return fetch(f"{self.url}/index.php?title=Page_{number}")

    def test(self):
        need("mediawiki", os.path.exists(self.HOME))
        need("php with sqlite3", shutil.which("php"))
        self.url = f"http://127.0.0.1:{free_port()}"
        self.install()
        self.start()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(self.write, range(8)))
        self.stop()
        pages = "SELECT count(*) FROM page WHERE page_title LIKE 'Page\\_%' ESCAPE '\\'"
        self.assertEqual(self.stored("my_wiki.sqlite", pages), [(8,)])
        self.delete_local_data()
        self.start()
        for number in range(8):
            self.assertIn(f"Text number {number}.", self.read(number))
        self.write(8)
        self.stop()
        self.assertEqual(self.stored("my_wiki.sqlite", pages), [(9,)])
        self.assertEqual(self.bucket.list(f"{self.prefix}/my_wiki.sqlite-forks/"), [])


class Fossil(Application):
    """Debian links SQLite into it statically: r2vfs-preload.so does not reach it, and does no harm."""

    def test(self):
        need("fossil", shutil.which("fossil"))
        self.env["USER"] = "somebody"
        repository = os.path.join(self.data, "project.fossil")
        self.run_it("fossil", "init", repository)
        self.assertIn("initial empty check-in", self.run_it("fossil", "timeline", "-R", repository))
        self.assertEqual(self.bucket.list(self.prefix), [])
        self.assertEqual(os.listdir(self.data), ["project.fossil"])


if __name__ == "__main__":
    support.main()
