// The story in Java with Xerial's JDBC driver.

import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import org.sqlite.SQLiteConfig;
import org.sqlite.SQLiteErrorCode;
import org.sqlite.SQLiteException;

public class Story {
    static final PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    static Connection openUri(String extension, String uri) throws SQLException {
        // r2vfs: begin uri
        SQLiteConfig config = new SQLiteConfig();
        config.enableLoadExtension(true);
        try (Connection loader = config.createConnection("jdbc:sqlite::memory:");
                PreparedStatement load = loader.prepareStatement("SELECT load_extension(?)")) {
            load.setString(1, extension);
            load.executeQuery().close();
        }
        return DriverManager.getConnection("jdbc:sqlite:" + uri);
        // r2vfs: end
    }

    static Connection openPath(String extension, String path) throws SQLException {
        // r2vfs: begin default
        SQLiteConfig config = new SQLiteConfig();
        config.enableLoadExtension(true);
        try (Connection loader = config.createConnection("jdbc:sqlite::memory:");
                PreparedStatement load = loader.prepareStatement(
                        "SELECT load_extension(?, 'sqlite3_r2vfsdefault_init')")) {
            load.setString(1, extension);
            load.executeQuery().close();
        }
        // r2vfs: end
        return DriverManager.getConnection("jdbc:sqlite:" + path);
    }

    /** The columns of the first row, with a space between. */
    static String first(Connection db, String sql) throws SQLException {
        try (Statement statement = db.createStatement(); ResultSet row = statement.executeQuery(sql)) {
            row.next();
            StringBuilder text = new StringBuilder(row.getString(1));
            for (int i = 2; i <= row.getMetaData().getColumnCount(); i++)
                text.append(' ').append(row.getString(i));
            return text.toString();
        }
    }

    static void execute(Connection db, String sql) throws SQLException {
        try (Statement statement = db.createStatement()) {
            statement.execute(sql);
        }
    }

    static void insert(Connection db, String who) throws SQLException {
        try (PreparedStatement add = db.prepareStatement("INSERT INTO story(who) VALUES(?)")) {
            add.setString(1, who);
            add.executeUpdate();
        }
    }

    // Without autocommit every statement, also SELECT sync(), is in a transaction: switch it on again.
    static void insertInTransaction(Connection db) throws SQLException {
        db.setAutoCommit(false);
        insert(db, System.getenv("STORY_WHO"));
        db.commit();
        db.setAutoCommit(true);
    }

    static void rows(Connection db) throws SQLException {
        try (Statement statement = db.createStatement();
                ResultSet row = statement.executeQuery("SELECT id, who FROM story ORDER BY id")) {
            while (row.next()) out.println("row " + row.getLong(1) + " " + row.getString(2));
        }
    }

    static void write(Connection db) throws SQLException {
        execute(db, "CREATE TABLE IF NOT EXISTS story(id INTEGER PRIMARY KEY, who TEXT)");
        insertInTransaction(db);
        out.println("version " + first(db, "SELECT sync()"));
        out.println("status " + first(db,
                "SELECT version, remote_version, dirty_pages, pushes FROM r2_status"));
    }

    static void read(Connection db) throws SQLException {
        rows(db);
        out.println("sqlite " + first(db, "SELECT sqlite_version()"));
        out.println("client Xerial sqlite-jdbc " + db.getMetaData().getDriverVersion());
    }

    static void conflict(Connection db) throws Exception {
        insertInTransaction(db);
        out.println("ready");
        System.in.read();
        try {
            out.println("other " + first(db, "SELECT sync()"));
        } catch (SQLiteException error) {
            int code = error.getResultCode().code;
            boolean busy = (code & 0xff) == SQLiteErrorCode.SQLITE_BUSY.code;
            out.println((busy ? "busy " : "other ") + code + " " + error.getMessage());
        }
        out.println("version " + first(db, "SELECT r2_resolve('fork')"));
        rows(db);
    }

    static void refused(Connection db) throws SQLException {
        try {
            out.println("synced " + first(db, "SELECT sync()"));
        } catch (SQLiteException error) {
            out.println("refused " + error.getMessage());
        }
    }

    static void mind(Connection db) throws SQLException {
        db.setAutoCommit(false);
        insert(db, System.getenv("STORY_WHO"));
        db.commit();
        refused(db);        // the SELECT itself began a transaction
        db.setAutoCommit(true);
        out.println("version " + first(db, "SELECT sync()"));
        insertInTransaction(db);
        try (Statement statement = db.createStatement();
                ResultSet row = statement.executeQuery("SELECT id FROM story")) {
            row.next();
            refused(db);
        }
        out.println("version " + first(db, "SELECT sync()"));
    }

    public static void main(String[] arguments) throws Exception {
        String extension = System.getenv("R2VFS_SO");
        try (Connection db = "uri".equals(System.getenv("STORY_WAY"))
                ? openUri(extension, System.getenv("STORY_URI"))
                : openPath(extension, System.getenv("STORY_PATH"))) {
            switch (arguments[0]) {
                case "write": write(db); break;
                case "read": read(db); break;
                case "conflict": conflict(db); break;
                case "mind": mind(db); break;
                case "pool": Pool.run(db); break;
                default: throw new IllegalArgumentException(arguments[0]);
            }
        }
        out.println("closed");
    }
}
