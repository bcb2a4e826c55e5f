// Goroutines that write through the connections of one database/sql pool, and call sync() beside
// each other. What it prints is in pool.py.
package main

import (
	"bufio"
	"database/sql"
	"fmt"
	"os"
	"strconv"
	"sync"
)

func number(name string) int {
	n, err := strconv.Atoi(os.Getenv(name))
	must(err)
	return n
}

func pool(db *sql.DB) {
	threads, rounds, count := number("POOL_THREADS"), number("POOL_ROUNDS"), number("POOL_ROWS")
	// A pool that closes idle connections would push at each close.
	db.SetMaxOpenConns(threads)
	db.SetMaxIdleConns(threads)
	_, err := db.Exec("CREATE TABLE story(id INTEGER PRIMARY KEY, who TEXT)")
	must(err)
	var group sync.WaitGroup
	for thread := 0; thread < threads; thread++ {
		group.Add(1)
		go func(thread int) {
			defer group.Done()
			for round := 0; round < rounds; round++ {
				for n := 0; n < count; n++ {
					_, err := db.Exec("INSERT INTO story(who) VALUES(?)",
						fmt.Sprintf("%d.%d", thread, round*count+n))
					must(err)
				}
				var version int64
				must(db.QueryRow("SELECT sync()").Scan(&version))
				fmt.Printf("synced %d\n", version)
			}
		}(thread)
	}
	group.Wait()
	var replicas, v, r, d, p int64
	must(db.QueryRow("SELECT count(*) FROM r2_status").Scan(&replicas))
	fmt.Println("replicas", replicas)
	must(db.QueryRow("SELECT version, remote_version, dirty_pages, pushes FROM r2_status").
		Scan(&v, &r, &d, &p))
	fmt.Println("status", v, r, d, p)
	_, err = bufio.NewReader(os.Stdin).ReadString('\n')
	must(err)
}
