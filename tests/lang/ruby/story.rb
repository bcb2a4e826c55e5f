# The story in Ruby with the sqlite3 gem. A conflict is SQLite3::BusyException. load_extension cannot
# name an entry point: the SQL function of the same name does.
#
# execute, get_first_row and get_first_value finish their statement. One made with prepare or query is
# unfinished until close, reset or its block's end: sync() refuses beside it, and so does
# Database#close ("unable to close due to unfinalized statements").
require "sqlite3"

$stdout.sync = true
extension = ENV["R2VFS_SO"]
if ENV["STORY_WAY"] == "uri"
  uri = ENV["STORY_URI"]
  # r2vfs: begin uri
  loader = SQLite3::Database.new(":memory:")
  loader.enable_load_extension(true)
  loader.load_extension(extension)
  open = SQLite3::Constants::Open
  db = SQLite3::Database.new(uri, flags: open::READWRITE | open::CREATE | open::URI)
  # r2vfs: end
else
  # r2vfs: begin default
  loader = SQLite3::Database.new(":memory:")
  loader.enable_load_extension(true)
  loader.execute("SELECT load_extension(?, 'sqlite3_r2vfsdefault_init')", [extension])
  # r2vfs: end
  db = SQLite3::Database.new(ENV["STORY_PATH"])
end

def insert(db)
  db.transaction { db.execute("INSERT INTO story(who) VALUES(?)", [ENV["STORY_WHO"]]) }
end

def rows(db)
  db.execute("SELECT id, who FROM story ORDER BY id") { |row| puts "row #{row.join(' ')}" }
end

case ARGV[0]
when "write"
  db.execute("CREATE TABLE IF NOT EXISTS story(id INTEGER PRIMARY KEY, who TEXT)")
  insert(db)
  puts "version #{db.get_first_value('SELECT sync()')}"
  status = db.get_first_row("SELECT version, remote_version, dirty_pages, pushes FROM r2_status")
  puts "status #{status.join(' ')}"
when "read"
  rows(db)
  puts "sqlite #{db.get_first_value('SELECT sqlite_version()')}"
  puts "client Ruby #{RUBY_VERSION}, sqlite3 #{SQLite3::VERSION}"
when "conflict"
  insert(db)
  puts "ready"
  $stdin.gets
  begin
    puts "other #{db.get_first_value('SELECT sync()')}"
  rescue SQLite3::BusyException => error
    puts "busy #{error.code} #{error.message}"
  rescue SQLite3::Exception => error
    puts "other #{error.code} #{error.message}"
  end
  puts "version #{db.get_first_value("SELECT r2_resolve('fork')")}"
  rows(db)
when "mind"
  insert(db)
  result = db.query("SELECT who FROM story")
  result.next
  begin
    puts "other #{db.get_first_value('SELECT sync()')}"
  rescue SQLite3::Exception => error
    puts "refused #{error.message}"
  end
  result.close
  puts "version #{db.get_first_value('SELECT sync()')}"
end
db.close
puts "closed"
