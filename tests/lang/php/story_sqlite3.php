<?php
// The story in PHP with the SQLite3 class. It takes extensions by name from the folder that php.ini's
// sqlite3.extension_dir names (php -d sqlite3.extension_dir=DIR), cannot name an entry point, and has
// no file: URI for the main database: attach it. A conflict is lastErrorCode() 5, extended 517.
//
// A result that was not read to its end is an unfinished statement: finalize() it before sync().

$extension = basename(getenv("R2VFS_SO"));
$schema = "main";
if (getenv("STORY_WAY") == "uri") {
    $uri = getenv("STORY_URI");
    // r2vfs: begin uri
    $loader = new SQLite3(":memory:");
    $loader->loadExtension($extension);
    $open_uri = 0x40;
    $db = new SQLite3(":memory:", SQLITE3_OPEN_READWRITE | SQLITE3_OPEN_CREATE | $open_uri);
    $db->exec("ATTACH '$uri' AS app");
    // r2vfs: end
    $schema = "app";
} else {
    // r2vfs: begin default
    putenv("R2VFS_DEFAULT=1");
    $loader = new SQLite3(":memory:");
    $loader->loadExtension($extension);
    // r2vfs: end
    $db = new SQLite3(getenv("STORY_PATH"));
}
$db->enableExceptions(true);

function say(...$words)
{
    echo implode(" ", $words), "\n";
    flush();
}

function insert()
{
    global $db;
    $db->exec("BEGIN");
    $statement = $db->prepare("INSERT INTO story(who) VALUES(:who)");
    $statement->bindValue(":who", getenv("STORY_WHO"), SQLITE3_TEXT);
    $statement->execute()->finalize();
    $db->exec("COMMIT");
}

function rows()
{
    global $db;
    $result = $db->query("SELECT id, who FROM story ORDER BY id");
    while ($row = $result->fetchArray(SQLITE3_NUM)) {
        say("row", ...$row);
    }
    $result->finalize();
}

switch ($argv[1]) {
    case "write":
        $db->exec("CREATE TABLE IF NOT EXISTS $schema.story(id INTEGER PRIMARY KEY, who TEXT)");
        insert();
        say("version", $db->querySingle("SELECT sync('$schema')"));
        say("status", ...array_values($db->querySingle(
            "SELECT version, remote_version, dirty_pages, pushes FROM r2_status", true)));
        break;
    case "read":
        rows();
        say("sqlite", $db->querySingle("SELECT sqlite_version()"));
        say("client", "PHP", PHP_VERSION);
        break;
    case "conflict":
        insert();
        say("ready");
        fgets(STDIN);
        try {
            say("other", $db->querySingle("SELECT sync('$schema')"));
        } catch (Exception $error) {
            $busy = $db->lastErrorCode() == 5;
            say($busy ? "busy" : "other", $db->lastExtendedErrorCode(), $error->getMessage());
        }
        say("version", $db->querySingle("SELECT r2_resolve('fork', '$schema')"));
        rows();
        break;
    case "mind":
        insert();
        $result = $db->query("SELECT who FROM story");
        $result->fetchArray();
        try {
            say("other", $db->querySingle("SELECT sync('$schema')"));
        } catch (Exception $error) {
            say("refused", $error->getMessage());
        }
        $result->finalize();
        say("version", $db->querySingle("SELECT sync('$schema')"));
}
$db->close();
say("closed");
