// Threads that write to one database, each through a connection of its own, and call sync() beside
// each other. What it prints is in pool.py.

use crate::{number, status, variable, wait_for_a_line};
use rusqlite::{Connection, Result};
use std::thread;
use std::time::Duration;

fn setting(name: &str) -> i64 {
    variable(name).parse().expect(name)
}

/// The connection comes back open: what is in the bucket before it closes, sync() brought there.
fn work(thread: i64) -> Result<Connection> {
    let db = Connection::open(variable("STORY_PATH"))?;
    db.busy_timeout(Duration::from_secs(60))?;
    let rows = setting("POOL_ROWS");
    for round in 0..setting("POOL_ROUNDS") {
        for row in 0..rows {
            let who = format!("{thread}.{}", round * rows + row);
            db.execute("INSERT INTO story(who) VALUES(?1)", [who])?;
        }
        println!("synced {}", number(&db, "SELECT sync()")?);
    }
    Ok(db)
}

pub fn run(db: &Connection) -> Result<()> {
    db.execute_batch("CREATE TABLE story(id INTEGER PRIMARY KEY, who TEXT)")?;
    let threads: Vec<_> = (0..setting("POOL_THREADS"))
        .map(|number| thread::spawn(move || work(number)))
        .collect();
    let mut open = Vec::new();
    for thread in threads {
        open.push(thread.join().expect("a thread")?);
    }
    println!("replicas {}", number(db, "SELECT count(*) FROM r2_status")?);
    status(db)?;
    wait_for_a_line();
    Ok(())
}
