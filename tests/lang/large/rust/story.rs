// The story in Rust with rusqlite.

use rusqlite::{Connection, ErrorCode, LoadExtensionGuard, Result};
use std::env;
use std::io;

mod pool;

fn open_uri(extension: &str, uri: &str) -> Result<Connection> {
    // r2vfs: begin uri
    let loader = Connection::open_in_memory()?;
    unsafe {
        let _guard = LoadExtensionGuard::new(&loader)?;
        loader.load_extension(extension, None)?;
    }
    Connection::open(uri)
    // r2vfs: end
}

fn open_path(extension: &str, path: &str) -> Result<Connection> {
    // r2vfs: begin default
    let loader = Connection::open_in_memory()?;
    unsafe {
        let _guard = LoadExtensionGuard::new(&loader)?;
        loader.load_extension(extension, Some("sqlite3_r2vfsdefault_init"))?;
    }
    // r2vfs: end
    Connection::open(path)
}

pub fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

pub fn wait_for_a_line() {
    io::stdin().read_line(&mut String::new()).expect("stdin");
}

pub fn number(db: &Connection, sql: &str) -> Result<i64> {
    db.query_row(sql, [], |row| row.get(0))
}

pub fn status(db: &Connection) -> Result<()> {
    let sql = "SELECT version, remote_version, dirty_pages, pushes FROM r2_status";
    let all: [i64; 4] = db.query_row(sql, [], |row| {
        Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
    })?;
    println!("status {} {} {} {}", all[0], all[1], all[2], all[3]);
    Ok(())
}

fn rows(db: &Connection) -> Result<()> {
    let mut statement = db.prepare("SELECT id, who FROM story ORDER BY id")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        println!("row {} {}", row.get::<_, i64>(0)?, row.get::<_, String>(1)?);
    }
    Ok(())
}

fn insert(db: &mut Connection) -> Result<()> {
    let transaction = db.transaction()?;
    transaction.execute("INSERT INTO story(who) VALUES(?1)", [variable("STORY_WHO")])?;
    transaction.commit()
}

fn write(db: &mut Connection) -> Result<()> {
    db.execute_batch("CREATE TABLE IF NOT EXISTS story(id INTEGER PRIMARY KEY, who TEXT)")?;
    insert(db)?;
    println!("version {}", number(db, "SELECT sync()")?);
    status(db)
}

fn read(db: &mut Connection) -> Result<()> {
    rows(db)?;
    println!("sqlite {}", rusqlite::version());
    println!("client rusqlite {}", env!("RUSQLITE_VERSION"));
    Ok(())
}

fn conflict(db: &mut Connection) -> Result<()> {
    insert(db)?;
    println!("ready");
    wait_for_a_line();
    match number(db, "SELECT sync()") {
        Err(rusqlite::Error::SqliteFailure(error, Some(message)))
            if error.code == ErrorCode::DatabaseBusy =>
        {
            println!("busy {} {message}", error.extended_code)
        }
        other => println!("other {other:?}"),
    }
    println!("version {}", number(db, "SELECT r2_resolve('fork')")?);
    rows(db)
}

fn mind(db: &mut Connection) -> Result<()> {
    insert(db)?;
    let mut statement = db.prepare("SELECT id FROM story")?;
    let mut found = statement.query([])?;
    found.next()?;
    match number(db, "SELECT sync()") {
        Err(error) => println!("refused {error}"),
        Ok(version) => println!("synced {version}"),
    }
    drop(found);
    println!("version {}", number(db, "SELECT sync()")?);
    Ok(())
}

fn main() -> Result<()> {
    let extension = variable("R2VFS_SO");
    let mut db = if variable("STORY_WAY") == "uri" {
        open_uri(&extension, &variable("STORY_URI"))?
    } else {
        open_path(&extension, &variable("STORY_PATH"))?
    };
    match env::args().nth(1).as_deref() {
        Some("write") => write(&mut db)?,
        Some("read") => read(&mut db)?,
        Some("conflict") => conflict(&mut db)?,
        Some("mind") => mind(&mut db)?,
        Some("pool") => pool::run(&db)?,
        step => panic!("no such step: {step:?}"),
    }
    db.close().map_err(|(_, error)| error)?;
    println!("closed");
    Ok(())
}
