"""Tables of ratings: files and dataframes of any layout, read into the columns user, item and rating."""
