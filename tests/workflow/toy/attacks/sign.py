SALT = "sign"
