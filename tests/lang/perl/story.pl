# The story in Perl with DBD::SQLite. A conflict is $dbh->err == SQLITE_BUSY.
#
# With AutoCommit => 0 DBD::SQLite begins a transaction before every statement, SELECT sync() too: turn
# AutoCommit on for it, which commits. A statement handle that was not read to its end is unfinished
# until $sth->finish: sync() refuses beside it.
use strict;
use warnings;
use DBI;
use DBD::SQLite::Constants qw(SQLITE_BUSY);

$| = 1;
my ($extension, $uri) = @ENV{qw(R2VFS_SO STORY_URI)};
my $db;
if ($ENV{STORY_WAY} eq "uri") {
    # r2vfs: begin uri
    my $loader = DBI->connect("dbi:SQLite::memory:", "", "", { RaiseError => 1 });
    $loader->sqlite_enable_load_extension(1);
    $loader->sqlite_load_extension($extension);
    $db = DBI->connect("dbi:SQLite:uri=$uri", "", "", { RaiseError => 1, PrintError => 0 });
    # r2vfs: end
}
else {
    # r2vfs: begin default
    my $loader = DBI->connect("dbi:SQLite::memory:", "", "", { RaiseError => 1 });
    $loader->sqlite_enable_load_extension(1);
    $loader->sqlite_load_extension($extension, "sqlite3_r2vfsdefault_init");
    # r2vfs: end
    $db = DBI->connect("dbi:SQLite:dbname=$ENV{STORY_PATH}", "", "",
        { RaiseError => 1, PrintError => 0 });
}

sub one {
    my ($value) = $db->selectrow_array($_[0]);
    return $value;
}

sub insert {
    $db->begin_work;
    $db->do("INSERT INTO story(who) VALUES(?)", undef, $ENV{STORY_WHO});
    $db->commit;
}

sub rows {
    print "row @$_\n" for @{ $db->selectall_arrayref("SELECT id, who FROM story ORDER BY id") };
}

if ($ARGV[0] eq "write") {
    $db->do("CREATE TABLE IF NOT EXISTS story(id INTEGER PRIMARY KEY, who TEXT)");
    insert();
    print "version ", one("SELECT sync()"), "\n";
    my @status = $db->selectrow_array(
        "SELECT version, remote_version, dirty_pages, pushes FROM r2_status");
    print "status @status\n";
}
elsif ($ARGV[0] eq "read") {
    rows();
    print "sqlite ", one("SELECT sqlite_version()"), "\n";
    printf "client Perl %vd, DBD::SQLite %s\n", $^V, $DBD::SQLite::VERSION;
}
elsif ($ARGV[0] eq "mind") {
    insert();
    my $sth = $db->prepare("SELECT who FROM story");
    $sth->execute;
    $sth->fetch;
    print "refused ", $db->errstr, "\n" unless eval { one("SELECT sync()") };
    $sth->finish;
    print "version ", one("SELECT sync()"), "\n";

    $db->{AutoCommit} = 0;
    $db->do("INSERT INTO story(who) VALUES(?)", undef, $ENV{STORY_WHO});
    $db->commit;
    print "refused ", $db->errstr, "\n" unless eval { one("SELECT sync()") };
    {
        local $db->{AutoCommit} = 1;
        print "version ", one("SELECT sync()"), "\n";
    }
    $db->{AutoCommit} = 1;
}
else {
    insert();
    print "ready\n";
    <STDIN>;
    if (defined(my $version = eval { one("SELECT sync()") })) {
        print "other $version\n";
    }
    else {
        my $word = $db->err == SQLITE_BUSY ? "busy" : "other";
        print "$word ", $db->err, " ", $db->errstr, "\n";
    }
    print "version ", one("SELECT r2_resolve('fork')"), "\n";
    rows();
}
$db->disconnect;
print "closed\n";
