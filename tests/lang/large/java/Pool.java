// Threads that write to one database, each through a connection of its own, and call sync() beside
// each other. What it prints is in pool.py.

import java.sql.Connection;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.sqlite.SQLiteConfig;

class Pool {
    static int number(String name) {
        return Integer.parseInt(System.getenv(name));
    }

    static Connection connection() throws SQLException {
        SQLiteConfig config = new SQLiteConfig();
        config.setBusyTimeout(60000);
        return config.createConnection("jdbc:sqlite:" + System.getenv("STORY_PATH"));
    }

    static void work(Connection db, int thread) throws SQLException {
        int rows = number("POOL_ROWS");
        for (int round = 0; round < number("POOL_ROUNDS"); round++) {
            for (int n = 0; n < rows; n++) Story.insert(db, thread + "." + (round * rows + n));
            Story.out.println("synced " + Story.first(db, "SELECT sync()"));
        }
    }

    static void run(Connection db) throws Exception {
        int threads = number("POOL_THREADS");
        Story.execute(db, "CREATE TABLE story(id INTEGER PRIMARY KEY, who TEXT)");
        List<Connection> connections = new ArrayList<>();
        List<Future<?>> results = new ArrayList<>();
        ExecutorService executor = Executors.newFixedThreadPool(threads);
        try {
            for (int i = 0; i < threads; i++) {
                int thread = i;
                Connection own = connection();
                connections.add(own);
                results.add(executor.submit(() -> {
                    work(own, thread);
                    return null;
                }));
            }
            for (Future<?> result : results) result.get();
        } finally {
            executor.shutdown();
        }
        Story.out.println("replicas " + Story.first(db, "SELECT count(*) FROM r2_status"));
        Story.out.println("status " + Story.first(db,
                "SELECT version, remote_version, dirty_pages, pushes FROM r2_status"));
        System.in.read();
        for (Connection own : connections) own.close();
    }
}
