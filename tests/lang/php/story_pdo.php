<?php
// The story in PHP with PDO. PDO cannot load an extension (PHP 8.4's Pdo\Sqlite can): the SQLite3 class
// does, once per process, since both use the same SQLite library. A conflict is a PDOException with
// errorInfo[1] == 5 (517 with PDO::SQLITE_ATTR_EXTENDED_RESULT_CODES).
//
// A statement that was not read to its end is unfinished until closeCursor(), unset() or the end of
// its function: sync() refuses beside it. A connection closes when nothing refers to it any more, its
// statements included.

$extension = basename(getenv("R2VFS_SO"));
if (getenv("STORY_WAY") == "uri") {
    $uri = getenv("STORY_URI");
    // r2vfs: begin uri
    $loader = new SQLite3(":memory:");
    $loader->loadExtension($extension);
    $db = new PDO("sqlite:$uri");
    // r2vfs: end
} else {
    // r2vfs: begin default
    putenv("R2VFS_DEFAULT=1");
    $loader = new SQLite3(":memory:");
    $loader->loadExtension($extension);
    // r2vfs: end
    $db = new PDO("sqlite:" . getenv("STORY_PATH"));
}

function say(...$words)
{
    echo implode(" ", $words), "\n";
    flush();
}

function one($sql)
{
    global $db;
    return $db->query($sql)->fetchColumn();
}

function insert()
{
    global $db;
    $db->beginTransaction();
    $db->prepare("INSERT INTO story(who) VALUES(?)")->execute([getenv("STORY_WHO")]);
    $db->commit();
}

function rows()
{
    global $db;
    foreach ($db->query("SELECT id, who FROM story ORDER BY id", PDO::FETCH_NUM) as $row) {
        say("row", ...$row);
    }
}

switch ($argv[1]) {
    case "write":
        $db->exec("CREATE TABLE IF NOT EXISTS story(id INTEGER PRIMARY KEY, who TEXT)");
        insert();
        say("version", one("SELECT sync()"));
        say("status", ...$db->query("SELECT version, remote_version, dirty_pages, pushes"
            . " FROM r2_status")->fetch(PDO::FETCH_NUM));
        break;
    case "read":
        rows();
        say("sqlite", one("SELECT sqlite_version()"));
        say("client", "PHP", PHP_VERSION);
        break;
    case "conflict":
        insert();
        say("ready");
        fgets(STDIN);
        try {
            say("other", one("SELECT sync()"));
        } catch (PDOException $error) {
            [, $code, $message] = $error->errorInfo;
            say($code == 5 ? "busy" : "other", $code, $message);
        }
        unset($error);      // its trace would keep the connection open
        say("version", one("SELECT r2_resolve('fork')"));
        rows();
        break;
    case "mind":
        insert();
        $statement = $db->query("SELECT who FROM story");
        try {
            say("other", one("SELECT sync()"));
        } catch (PDOException $error) {
            say("refused", $error->getMessage());
        }
        $statement->closeCursor();
        say("version", one("SELECT sync()"));
        unset($error, $statement);
}
$db = null;
say("closed");
