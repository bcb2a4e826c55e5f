// The story in Go with database/sql and mattn's driver.
package main

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"os"

	sqlite3 "github.com/mattn/go-sqlite3"
)

var driverVersion = "(unknown)" // the linker sets it: the driver does not say its own

func openURI(extension, uri string) (*sql.DB, error) {
	// r2vfs: begin uri
	sql.Register("r2vfs", &sqlite3.SQLiteDriver{Extensions: []string{extension}})
	loader, err := sql.Open("r2vfs", ":memory:")
	if err == nil {
		err = loader.Ping()
	}
	if err != nil {
		return nil, err
	}
	return sql.Open("sqlite3", uri)
	// r2vfs: end
}

func openPath(extension, path string) (*sql.DB, error) {
	// r2vfs: begin default
	sql.Register("r2vfs", &sqlite3.SQLiteDriver{ConnectHook: func(conn *sqlite3.SQLiteConn) error {
		return conn.LoadExtension(extension, "sqlite3_r2vfsdefault_init")
	}})
	loader, err := sql.Open("r2vfs", ":memory:")
	if err == nil {
		err = loader.Ping()
	}
	if err != nil {
		return nil, err
	}
	// r2vfs: end
	return sql.Open("sqlite3", path)
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func version(db *sql.DB, query string) {
	var number int64
	must(db.QueryRow(query).Scan(&number))
	fmt.Println("version", number)
}

func rows(db *sql.DB) {
	found, err := db.Query("SELECT id, who FROM story ORDER BY id")
	must(err)
	defer found.Close()
	for found.Next() {
		var id int64
		var who string
		must(found.Scan(&id, &who))
		fmt.Println("row", id, who)
	}
	must(found.Err())
}

func insert(db *sql.DB) {
	tx, err := db.BeginTx(context.Background(), nil)
	must(err)
	_, err = tx.Exec("INSERT INTO story(who) VALUES(?)", os.Getenv("STORY_WHO"))
	must(err)
	must(tx.Commit())
}

func write(db *sql.DB) {
	_, err := db.Exec("CREATE TABLE IF NOT EXISTS story(id INTEGER PRIMARY KEY, who TEXT)")
	must(err)
	insert(db)
	version(db, "SELECT sync()")
	var v, r, d, p int64
	must(db.QueryRow("SELECT version, remote_version, dirty_pages, pushes FROM r2_status").
		Scan(&v, &r, &d, &p))
	fmt.Println("status", v, r, d, p)
}

func read(db *sql.DB) {
	rows(db)
	var library string
	must(db.QueryRow("SELECT sqlite_version()").Scan(&library))
	fmt.Println("sqlite", library)
	fmt.Println("client mattn/go-sqlite3", driverVersion)
}

func conflict(db *sql.DB) {
	insert(db)
	fmt.Println("ready")
	_, err := bufio.NewReader(os.Stdin).ReadString('\n')
	must(err)
	var number int64
	err = db.QueryRow("SELECT sync()").Scan(&number)
	var failure sqlite3.Error
	if errors.As(err, &failure) && failure.Code == sqlite3.ErrBusy {
		fmt.Println("busy", int(failure.ExtendedCode), failure)
	} else {
		fmt.Println("other", number, err)
	}
	version(db, "SELECT r2_resolve('fork')")
	rows(db)
}

func mind(db *sql.DB) {
	tx, err := db.Begin()
	must(err)
	_, err = tx.Exec("INSERT INTO story(who) VALUES(?)", os.Getenv("STORY_WHO"))
	must(err)
	var number int64
	if err = tx.QueryRow("SELECT sync()").Scan(&number); err != nil {
		fmt.Println("refused", err)
	}
	must(tx.Commit())
	version(db, "SELECT sync()")
}

func main() {
	var db *sql.DB
	var err error
	if os.Getenv("STORY_WAY") == "uri" {
		db, err = openURI(os.Getenv("R2VFS_SO"), os.Getenv("STORY_URI"))
	} else {
		db, err = openPath(os.Getenv("R2VFS_SO"), os.Getenv("STORY_PATH"))
	}
	must(err)
	map[string]func(*sql.DB){
		"write": write, "read": read, "conflict": conflict, "mind": mind, "pool": pool}[os.Args[1]](db)
	must(db.Close())
	fmt.Println("closed")
}
