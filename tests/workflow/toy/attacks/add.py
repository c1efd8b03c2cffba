SALT = "add"
